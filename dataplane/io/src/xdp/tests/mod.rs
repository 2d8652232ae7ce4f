//! AF_XDP ports on real devices, in network namespaces.

mod churn;
mod forwarding;
mod frames;
mod lab;
mod offloads;
mod program;
mod uplink;

use std::sync::Arc;

use crate::pool::FramePool;
use crate::xdp::XdpSystem;

fn system() -> (Arc<FramePool>, XdpSystem) {
    system_of(16 << 10)
}

fn system_of(frames: u32) -> (Arc<FramePool>, XdpSystem) {
    let pool = FramePool::new(frames).unwrap();
    let system = XdpSystem::new(Arc::clone(&pool)).unwrap_or_else(|error| panic!("{error}"));
    (pool, system)
}

fn all_home(pool: &FramePool) {
    lab::eventually("the return of every frame", || pool.at_home() == pool.frames());
}
