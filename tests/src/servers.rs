//! Servers for real clients: they run until they are dropped, and are ready when they are returned.

use crate::cmd::Result;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::traffic::wait_for_listener;

/// What files hold that servers give and take: half a megabyte, no two pieces of it alike.
pub fn content() -> Vec<u8> {
    (0..1u32 << 19).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A program of Python, ready once it listens on TCP port `port`.
pub fn python(lab: &Lab, ns: &Netns, program: &str, port: u16) -> Result<Process> {
    let name = format!("server-{port}-{}", ns.name());
    let server = ns.spawn(lab, &name, &["/usr/bin/python3", "-u", "-c", program])?;
    wait_for_listener(ns, port)?;
    Ok(server)
}

/// A web server on a port of both families, for a folder with the file `page`, which holds [`content`].
pub fn web(lab: &Lab, ns: &Netns, port: u16) -> Result<Process> {
    let (folder, number) = (pages(lab)?, port.to_string());
    let words = ["-m", "http.server", "--bind", "::", "--directory", &folder, &number];
    let argv = [&["/usr/bin/python3"][..], &words].concat();
    let server = ns.spawn(lab, &format!("web-{port}-{}", ns.name()), &argv)?;
    wait_for_listener(ns, port)?;
    Ok(server)
}

/// dnsmasq without DNS, as a server of what `options` say; it may not listen yet.
pub fn dnsmasq(lab: &Lab, ns: &Netns, name: &str, options: &[&str]) -> Result<Process> {
    let quiet = ["dnsmasq", "--keep-in-foreground", "--pid-file=", "--conf-file=/dev/null"];
    ns.spawn(lab, name, &[&quiet[..], &["--port=0", "--user=root"], options].concat())
}

/// The folder with `page`.
pub fn pages(lab: &Lab) -> Result<String> {
    let folder = lab.path("pages");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("page"), content())?;
    Ok(folder.display().to_string())
}
