//! A network device, possibly in another network namespace.

use std::fmt;
use std::fs::File;
use std::io;
use std::str::FromStr;

use weft_wire::Mac;

use crate::run::Error;
use crate::sys;

/// Where a device is: its name and, if it is not ours, its network namespace (as `ip netns` names it).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The device's name.
    pub name: String,
    /// The namespace's name below `/run/netns`; `None` is the one that the program was started in.
    pub netns: Option<String>,
}

/// The text does not name a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a device: expected DEV or DEV@NETNS, DEV with 1 to 15 characters, NETNS without '/'")]
pub struct InvalidEndpoint(pub String);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let (name, netns) = match text.split_once('@') {
            Some((name, netns)) => (name, Some(netns)),
            None => (text, None),
        };
        let bad_netns =
            netns.is_some_and(|netns| ["", ".", ".."].contains(&netns) || netns.contains(['/', '\0']));
        if name.is_empty() || name.len() > 15 || name.contains(['/', '\0']) || bad_netns {
            return Err(InvalidEndpoint(text.to_owned()));
        }
        Ok(Endpoint { name: name.to_owned(), netns: netns.map(str::to_owned) })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.netns {
            Some(netns) => write!(out, "{}@{netns}", self.name),
            None => out.write_str(&self.name),
        }
    }
}

/// What the kernel says about a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its index in its namespace.
    pub index: i32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU in octets.
    pub mtu: usize,
}

impl Endpoint {
    /// Moves the calling thread into the device's namespace, for good.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no such namespace or entering it is not permitted.
    pub fn enter(&self) -> Result<(), Error> {
        let Some(netns) = &self.netns else { return Ok(()) };
        let entered = File::open(format!("/run/netns/{netns}")).and_then(|file| sys::enter_netns(&file));
        entered.map_err(|error| self.error("enter its network namespace", error))
    }

    /// Asks the kernel about the device, in the calling thread's namespace.
    ///
    /// # Errors
    /// [`Error::Device`] when it is not there; [`Error::Down`] when it is not up.
    pub fn probe(&self) -> Result<Device, Error> {
        let info = sys::interface(&self.name).map_err(|error| self.error("find it", error))?;
        if info.up { Ok(info.device) } else { Err(Error::Down(self.clone())) }
    }

    pub(crate) fn error(&self, what: &'static str, error: io::Error) -> Error {
        Error::Device { endpoint: self.clone(), what, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back_to_the_same_endpoint() {
        for text in ["eth0", "tap1@tenant"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn text_that_names_no_device_is_refused_and_quoted() {
        for text in ["", "@ns", "eth0@", "eth0@..", "eth0@../../etc/passwd", "a-name-of-16-char"] {
            assert_eq!(text.parse::<Endpoint>(), Err(InvalidEndpoint(text.to_owned())));
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_a_clear_error() {
        let error = "hd-none".parse::<Endpoint>().unwrap().probe().unwrap_err().to_string();
        assert!(error.starts_with("hd-none: can't find it: "), "{error}");
        let error = "lo@hd-none".parse::<Endpoint>().unwrap().enter().unwrap_err().to_string();
        assert!(error.starts_with("lo@hd-none: can't enter its network namespace: "), "{error}");
    }
}
