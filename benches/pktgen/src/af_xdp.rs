//! An AF_XDP socket on queue 0 of a device, by xsk-rs, in the mode that libxdp finds for the device.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use xsk_rs::config::{BindFlags, Interface, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::port::{BURST, Port};

/// The longest frame: one UMEM frame of 4096 octets less the headroom that the kernel keeps for XDP programs.
pub const MAX_SIZE: usize = 4096 - 256;
/// Frames for sending, and the size of their rings.
const TX_FRAMES: u32 = 2048;
/// Frames for receiving, and the size of their rings: some milliseconds of small packets at a million per second.
const RX_FRAMES: u32 = 8192;
/// What one wakeup makes the kernel send at most, in copy mode (`TX_BATCH_SIZE` in net/xdp/xsk.c).
const KERNEL_BATCH: usize = 32;
/// How long the kernel may take to send what it took.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// An AF_XDP socket with a UMEM of its own. Made, used and dropped in the device's namespace: dropping it takes the XDP
/// program off the device by its index.
pub struct XdpPort {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completed: CompQueue,
    /// Frames for sending that we own.
    free: Vec<FrameDesc>,
    /// Received frames on their way back to the fill ring.
    returning: Vec<FrameDesc>,
    /// Descriptors to be overwritten.
    scratch: Vec<FrameDesc>,
    umem: Umem,
}

fn ring(size: u32) -> io::Result<QueueSize> {
    QueueSize::new(size).map_err(io::Error::other)
}

impl XdpPort {
    /// Opens it, in the calling thread's namespace.
    ///
    /// # Errors
    /// What libxdp and the kernel say; it needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF.
    #[expect(unsafe_code, reason = "xsk-rs leaves it to its user that a frame is in one place at a time")]
    pub fn open(name: &str) -> io::Result<Self> {
        let (tx_size, rx_size) = (ring(TX_FRAMES)?, ring(RX_FRAMES)?);
        let count = NonZeroU32::MIN.saturating_add(TX_FRAMES + RX_FRAMES - 1);
        let config = UmemConfig::builder().fill_queue_size(rx_size).comp_queue_size(tx_size).build();
        let config = config.map_err(io::Error::other)?;
        let (umem, mut frames) = Umem::new(config, count, false).map_err(io::Error::other)?;
        let config = SocketConfig::builder()
            .rx_queue_size(rx_size)
            .tx_queue_size(tx_size)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let device: Interface = name.parse().map_err(io::Error::other)?;
        // SAFETY: the UMEM is fresh and has no other socket, so the pair of device and queue is not bound to by it.
        let socket = unsafe { Socket::new(config, &umem, &device, 0) }.map_err(io::Error::other)?;
        let (tx, rx, Some((mut fill, completed))) = socket else {
            return Err(io::Error::other("the UMEM has no fill ring"));
        };
        let receiving = frames.split_off(frames.len().min(TX_FRAMES as usize));
        // SAFETY: the descriptors are this UMEM's, and `receiving` was just split off from those kept for sending.
        if unsafe { fill.produce(&receiving) } != receiving.len() {
            return Err(io::Error::other("the fill ring is smaller than asked for"));
        }
        let scratch = frames.iter().take(BURST).copied().collect();
        Ok(XdpPort { tx, rx, fill, completed, free: frames, returning: Vec::new(), scratch, umem })
    }

    /// Takes back the frames that the kernel has sent.
    #[expect(unsafe_code, reason = "xsk-rs leaves it to its user that a frame is in one place at a time")]
    fn reclaim(&mut self) {
        loop {
            // SAFETY: the scratch descriptors are this UMEM's, as it was made from them; they are overwritten.
            let count = unsafe { self.completed.consume(&mut self.scratch) };
            self.free.extend(self.scratch.iter().take(count));
            if count == 0 {
                return;
            }
        }
    }
}

impl Port for XdpPort {
    #[expect(unsafe_code, reason = "xsk-rs leaves it to its user that a frame is in one place at a time")]
    fn send(&mut self, frames: &[u8], size: usize) -> io::Result<usize> {
        self.reclaim();
        let wanted = (frames.len() / size.max(1)).min(BURST);
        let from = self.free.len().saturating_sub(wanted);
        let (umem, ready) = (&self.umem, self.free.get_mut(from..).unwrap_or_default());
        let count = ready.len();
        for (frame, desc) in frames.chunks_exact(size.max(1)).zip(ready.iter_mut()) {
            // SAFETY: the descriptor is this UMEM's and comes from the free list, so the kernel does not hold the frame.
            let mut data = unsafe { umem.data_mut(desc) };
            data.cursor().write_all(frame)?;
        }
        // SAFETY: the same descriptors; they leave the free list below, before anybody can use them again.
        let sent = unsafe { self.tx.produce(ready) };
        self.free.truncate(if sent == count { from } else { self.free.len() });
        for _ in 0..count.div_ceil(KERNEL_BATCH).max(1) {
            if self.tx.needs_wakeup() {
                self.tx.wakeup()?;
            }
        }
        Ok(sent)
    }

    #[expect(unsafe_code, reason = "xsk-rs leaves it to its user that a frame is in one place at a time")]
    fn receive(&mut self, wait: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        if self.rx.nb_avail(1) == 0 {
            self.rx.poll(wait)?;
        }
        // SAFETY: the scratch descriptors are this UMEM's, as it was made from them; they are overwritten.
        let count = unsafe { self.rx.consume(&mut self.scratch) };
        let came = self.scratch.get(..count).unwrap_or_default();
        for desc in came {
            // SAFETY: the kernel has just given us this frame, and nobody writes to it until it is back in the fill ring.
            each(unsafe { self.umem.data(desc) }.contents());
        }
        self.returning.extend_from_slice(came);
        // All or none go in. None does while the kernel has not yet told that it took the frames which it has already
        // given us; then they wait for the next call.
        // SAFETY: the descriptors came from the receive ring and are in no other ring or list; they leave this one below.
        if unsafe { self.fill.produce(&self.returning) } > 0 {
            self.returning.clear();
        }
        if self.fill.needs_wakeup() {
            self.fill.wakeup(self.rx.fd_mut(), 0)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let end = Instant::now() + FLUSH_LIMIT;
        self.reclaim();
        while self.free.len() < TX_FRAMES as usize && Instant::now() < end {
            self.tx.wakeup()?;
            self.reclaim();
        }
        Ok(())
    }

    fn receiver_drops(&mut self) -> io::Result<u64> {
        let stats = self.rx.fd().xdp_statistics()?;
        Ok(stats.rx_dropped() + stats.rx_ring_full())
    }
}
