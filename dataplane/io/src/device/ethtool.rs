//! A device's driver, receive queues and offloads, by ethtool's ioctl (linux/ethtool.h).
//!
//! A NIC that hides VLAN tags, merges segments or leaves checksums unfinished must stop doing so before a backend
//! reads its frames that can't see it. What is switched is remembered, so that the device is given back as it was.
//! Offloads are switched by the names of the kernel's features, which all kernels since 2.6.39 list: the older
//! commands per offload are a choice of the same bits.

use std::io;

use super::{Device, DeviceError, Request};

/// Commands and sizes of linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_SS_FEATURES: u32 = 4;
/// Octets of a text.
const STRING: usize = 32;
/// Words of `struct ethtool_get_features_block`: available, requested, active, never changed.
const BLOCK: usize = 4;
/// More features than any kernel has.
const MAX_FEATURES: usize = 1024;

/// What a device can do in the host's place. Each is a group of the kernel's features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceOffload {
    /// Finishes L4 checksums of packets sent.
    TxChecksum,
    /// Cuts TCP into segments.
    Tso,
    /// Cuts UDP, SCTP and packets in tunnels.
    OtherSegmentation,
    /// Merges received segments in software.
    Gro,
    /// Merges received segments in hardware.
    Lro,
    /// Takes the VLAN tag out of received frames.
    RxVlan,
    /// Puts the VLAN tag into frames sent.
    TxVlan,
}

impl DeviceOffload {
    /// The kernel's features (net/ethtool/common.c). A device, or a kernel, may lack some of them.
    pub(super) fn features(self) -> &'static [&'static str] {
        match self {
            DeviceOffload::TxChecksum => &[
                "tx-checksum-ip-generic",
                "tx-checksum-ipv4",
                "tx-checksum-ipv6",
                "tx-checksum-sctp",
                "tx-checksum-fcoe-crc",
            ],
            DeviceOffload::Tso => &[
                "tx-tcp-segmentation",
                "tx-tcp-ecn-segmentation",
                "tx-tcp-accecn-segmentation",
                "tx-tcp-mangleid-segmentation",
                "tx-tcp6-segmentation",
            ],
            DeviceOffload::OtherSegmentation => &[
                "tx-udp-segmentation",
                "tx-sctp-segmentation",
                "tx-gso-list",
                "tx-gre-segmentation",
                "tx-gre-csum-segmentation",
                "tx-ipxip4-segmentation",
                "tx-ipxip6-segmentation",
                "tx-udp_tnl-segmentation",
                "tx-udp_tnl-csum-segmentation",
            ],
            DeviceOffload::Gro => &["rx-gro", "rx-gro-list", "rx-udp-gro-forwarding"],
            DeviceOffload::Lro => &["rx-lro", "rx-gro-hw"],
            DeviceOffload::RxVlan => &["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"],
            DeviceOffload::TxVlan => &["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"],
        }
    }
}

/// One of the kernel's features on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Feature {
    /// As `ethtool -k` lists it; empty for a bit that is none.
    pub(super) name: String,
    /// It can be switched.
    available: bool,
    /// It is wanted on.
    requested: bool,
    /// It is on.
    pub(super) active: bool,
}

/// The features that [`Device::switch_offloads`] meant, and whether each was wanted on before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PreviousOffloads(Vec<(String, bool)>);

impl PreviousOffloads {
    /// Without what was off before: to be used when all that was meant was switched off.
    pub(crate) fn that_were_on(mut self) -> Self {
        self.0.retain(|(_, on)| *on);
        self
    }

    /// Whether nothing was meant that the device has.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kernel's names of the features, after commas.
    pub(crate) fn names(&self) -> String {
        self.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Device {
    /// The name of its driver ("tun", "veth", "virtio_net", ...); empty when it has none to tell.
    pub fn driver(&self) -> Result<String, DeviceError> {
        // struct ethtool_drvinfo: the command, then the driver's name.
        let mut info = command(ETHTOOL_GDRVINFO, &[], 49);
        let known = self.ethtool_if_known("driver", &mut info)?;
        Ok(if known { texts(&info, 1).next().unwrap_or_default() } else { String::new() })
    }

    /// How many receive queues it has; 1 if it doesn't say.
    pub(crate) fn rx_queues(&self) -> Result<u32, DeviceError> {
        // struct ethtool_channels: the command, four maxima, then rx, tx, other and combined.
        let mut channels = command(ETHTOOL_GCHANNELS, &[], 9);
        self.ethtool_if_known("queues", &mut channels)?;
        let count = |at: usize| channels.get(at).copied().unwrap_or(0);
        Ok((count(5) + count(8)).max(1))
    }

    /// Switches offloads, and returns what [`Device::restore_offloads`] needs to undo that. What the device does not have
    /// can't be switched on, and that is no error; what stays on against the will is one, and then nothing is changed.
    pub(crate) fn switch_offloads(
        &self,
        wanted: &[(DeviceOffload, bool)],
    ) -> Result<PreviousOffloads, DeviceError> {
        let before = self.features()?;
        let wish = |name: &str| {
            wanted.iter().find(|(offload, _)| offload.features().contains(&name)).map(|&(_, on)| on)
        };
        let switched = before.iter().filter(|feature| feature.available && wish(&feature.name).is_some());
        let previous =
            PreviousOffloads(switched.map(|feature| (feature.name.clone(), feature.requested)).collect());
        self.request_features(&before, wish)?;
        let after = self.features()?;
        if let Some(stays) = after.iter().find(|feature| feature.active && wish(&feature.name) == Some(false))
        {
            self.restore_offloads(&previous)?;
            return Err(DeviceError::StaysOn { device: self.name.clone(), feature: stays.name.clone() });
        }
        Ok(previous)
    }

    /// Wants again what was wanted before.
    pub(crate) fn restore_offloads(&self, previous: &PreviousOffloads) -> Result<(), DeviceError> {
        let wish = |name: &str| previous.0.iter().find(|(known, _)| known == name).map(|&(_, on)| on);
        self.request_features(&self.features()?, wish)
    }

    /// All features that the kernel knows, by bit number, as this device has them.
    pub(super) fn features(&self) -> Result<Vec<Feature>, DeviceError> {
        let names = self.feature_names()?;
        let blocks = names.len().div_ceil(32);
        let mut state = command(ETHTOOL_GFEATURES, &[blocks as u32], 2 + blocks * BLOCK);
        self.ethtool("offloads", &mut state)?;
        let bit = |number: usize, word: usize| {
            let bits = state.get(2 + number / 32 * BLOCK + word).copied().unwrap_or(0);
            bits >> (number % 32) & 1 == 1
        };
        let feature = |(number, name)| Feature {
            name,
            available: bit(number, 0) && !bit(number, 3),
            requested: bit(number, 1),
            active: bit(number, 2),
        };
        Ok(names.into_iter().enumerate().map(feature).collect())
    }

    /// The features' names by bit number. The list is the running kernel's own and does not change.
    fn feature_names(&self) -> Result<Vec<String>, DeviceError> {
        let what = "names of offloads";
        // struct ethtool_sset_info: command, reserved, a 64-bit mask of sets, then a length for each set.
        let [low, high]: [u32; 2] = bytemuck::cast(1u64 << ETH_SS_FEATURES);
        let mut sizes = command(ETHTOOL_GSSET_INFO, &[0, low, high], 5);
        self.ethtool(what, &mut sizes)?;
        let count = sizes.last().copied().unwrap_or(0);
        if count as usize > MAX_FEATURES {
            return Err(self.unreadable(what, io::Error::from_raw_os_error(libc::EOVERFLOW)));
        }
        // struct ethtool_gstrings: command, set, length, texts. The kernel fills in as many as it has.
        let mut strings = command(ETHTOOL_GSTRINGS, &[ETH_SS_FEATURES, count], 3 + MAX_FEATURES * STRING / 4);
        self.ethtool(what, &mut strings)?;
        Ok(texts(&strings, 3).take(count as usize).collect())
    }

    fn request_features(
        &self,
        features: &[Feature],
        wish: impl Fn(&str) -> Option<bool>,
    ) -> Result<(), DeviceError> {
        let blocks = features.len().div_ceil(32);
        // struct ethtool_set_features_block: which bits are meant, and their values.
        let mut words = vec![0u32; blocks * 2];
        for (number, feature) in features.iter().enumerate() {
            let Some(on) = wish(&feature.name).filter(|_| feature.available) else { continue };
            let bit = 1 << (number % 32);
            for (word, set) in words.iter_mut().skip(number / 32 * 2).zip([true, on]) {
                *word |= if set { bit } else { 0 };
            }
        }
        let header: Vec<u32> = std::iter::once(blocks as u32).chain(words).collect();
        let mut set = command(ETHTOOL_SFEATURES, &header, 1 + header.len());
        self.ethtool("offloads", &mut set)
    }

    /// Runs the command in `data`, which the kernel reads and fills.
    fn ethtool(&self, what: &'static str, data: &mut [u32]) -> Result<(), DeviceError> {
        let mut request = Request::new(&self.name()?);
        // The kernel reads the command at the start of `data` and writes no more than that command's structure: fixed for
        // GDRVINFO, GCHANNELS and GSSET_INFO (one set), as long as its size says for G- and SFEATURES, and for GSTRINGS the
        // texts of all features, whose number is the running kernel's constant and at most MAX_FEATURES.
        request.data[0] = data.as_mut_ptr().expose_provenance() as u64;
        let answer = self.call(libc::SIOCETHTOOL as libc::Ioctl, request);
        answer.map(drop).map_err(|source| self.unreadable(what, source))
    }

    /// The same, for a command that a device need not know; whether it does.
    fn ethtool_if_known(&self, what: &'static str, data: &mut [u32]) -> Result<bool, DeviceError> {
        match self.ethtool(what, data) {
            Ok(()) => Ok(true),
            Err(DeviceError::Unreadable { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// A buffer of `length` words that starts with the command and its first words.
fn command(number: u32, words: &[u32], length: usize) -> Vec<u32> {
    let mut data = [&[number], words].concat();
    data.resize(length, 0);
    data
}

/// The texts of fixed length in `data` from word `at` on.
fn texts(data: &[u32], at: usize) -> impl Iterator<Item = String> {
    let octets: &[u8] = bytemuck::cast_slice(data.get(at..).unwrap_or_default());
    octets.chunks(STRING).map(|text| {
        let end = text.iter().position(|&octet| octet == 0).unwrap_or(text.len());
        String::from_utf8_lossy(text.get(..end).unwrap_or(text)).into_owned()
    })
}
