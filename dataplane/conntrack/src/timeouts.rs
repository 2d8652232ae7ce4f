//! How long a connection lives without a packet.

/// Which timeout counts for a connection: by its protocol and state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Timeout {
    /// TCP: a SYN without an answer, or a connection picked up in midstream.
    #[default]
    TcpSynSent = 0,
    /// TCP: opening.
    TcpSynRecv,
    /// TCP: established.
    TcpEstablished,
    /// TCP: one end has sent a FIN.
    TcpFinWait,
    /// TCP: both have.
    TcpTimeWait,
    /// TCP: both FINs acknowledged, or reset.
    TcpClose,
    /// UDP and others: one packet.
    UdpFirst,
    /// UDP and others: several packets, all in one direction.
    UdpSingle,
    /// UDP and others: packets in both directions.
    UdpMultiple,
    /// ICMP: a query without an answer.
    IcmpFirst,
    /// ICMP: a query with one.
    IcmpReply,
}

impl Timeout {
    /// All of them, in the order of [`Timeouts::seconds`].
    pub const ALL: [Timeout; 11] = [
        Timeout::TcpSynSent,
        Timeout::TcpSynRecv,
        Timeout::TcpEstablished,
        Timeout::TcpFinWait,
        Timeout::TcpTimeWait,
        Timeout::TcpClose,
        Timeout::UdpFirst,
        Timeout::UdpSingle,
        Timeout::UdpMultiple,
        Timeout::IcmpFirst,
        Timeout::IcmpReply,
    ];

    /// Its name, as in the `CT_Timeout_Policy` table of ovs-vswitchd.conf.db(5).
    pub const fn name(self) -> &'static str {
        match self {
            Timeout::TcpSynSent => "tcp_syn_sent",
            Timeout::TcpSynRecv => "tcp_syn_recv",
            Timeout::TcpEstablished => "tcp_established",
            Timeout::TcpFinWait => "tcp_fin_wait",
            Timeout::TcpTimeWait => "tcp_time_wait",
            Timeout::TcpClose => "tcp_close",
            Timeout::UdpFirst => "udp_first",
            Timeout::UdpSingle => "udp_single",
            Timeout::UdpMultiple => "udp_multiple",
            Timeout::IcmpFirst => "icmp_first",
            Timeout::IcmpReply => "icmp_reply",
        }
    }
}

/// A timeout policy: seconds for each [`Timeout`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Timeouts {
    /// Seconds, by [`Timeout`]'s number.
    pub seconds: [u32; 11],
}

impl Timeouts {
    /// Seconds of one.
    #[inline]
    pub const fn get(&self, which: Timeout) -> u32 {
        self.seconds[which as usize]
    }

    /// Sets one.
    pub const fn set(&mut self, which: Timeout, seconds: u32) {
        self.seconds[which as usize] = seconds;
    }
}

impl Default for Timeouts {
    /// What Open vSwitch's userspace datapath has (lib/conntrack-tp.c).
    fn default() -> Self {
        Timeouts { seconds: [30, 30, 86_400, 900, 45, 30, 60, 60, 30, 60, 30] }
    }
}
