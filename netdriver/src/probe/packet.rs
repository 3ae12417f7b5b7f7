//! ICMP echoes as bytes (RFC 792, RFC 4443), and how those of one probe are told among all packets. Pure.
//!
//! What is heard is told by checks of some bytes at fixed offsets, made into a program for the kernel's packet filter,
//! so that of a busy device nothing else reaches the probe. Our own packets carry no options, so offsets are fixed.

use std::net::{IpAddr, SocketAddr};

use socket2::SockFilter;

pub const IPV4: usize = 20;
pub const IPV6: usize = 40;
const ICMP: usize = 8;
const UDP: usize = 8;
const VXLAN: usize = 8;
const ETHERNET: usize = 14;

const PROTOCOL_ICMP: u32 = 1;
const PROTOCOL_UDP: u32 = 17;
const PROTOCOL_ESP: u32 = 50;
const PROTOCOL_ICMPV6: u32 = 58;

/// Bytes of a packet that are looked at: enough for the headers of two IPv6 packets in each other.
pub const SNAP: usize = 160;
/// Where the filter finds the index of the device (`SKF_AD_OFF + SKF_AD_IFINDEX` of linux/filter.h).
const DEVICE: u32 = 0xffff_f000 + 8;

/// An echo of `bytes` in all, with its IP header where the socket wants one: over IPv4, where it forbids fragments.
pub fn echo(to: IpAddr, token: u16, sequence: u16, bytes: usize) -> Vec<u8> {
    let mut icmp = vec![if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    icmp.extend(token.to_be_bytes());
    icmp.extend(sequence.to_be_bytes());
    let IpAddr::V4(to) = to else {
        icmp.resize(bytes.saturating_sub(IPV6).max(ICMP), 0);
        return icmp;
    };
    icmp.resize(bytes.saturating_sub(IPV4).max(ICMP), 0);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(IPV4 + icmp.len()).unwrap_or(u16::MAX);
    // The kernel fills in checksum and source.
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend(to.octets());
    packet.extend(icmp);
    packet
}

/// The sequence number of a reply to an echo with this token, as the socket gives it: over IPv4 with its header.
pub fn reply(received: &[u8], ipv6: bool, token: u16) -> Option<u16> {
    let (icmp, kind) = match ipv6 {
        true => (received, 129),
        false => (received.get(usize::from(received.first()? & 0x0f) * 4..)?, 0),
    };
    let [k, _, _, _, t0, t1, s0, s1, ..] = icmp else { return None };
    (*k == kind && u16::from_be_bytes([*t0, *t1]) == token).then(|| u16::from_be_bytes([*s0, *s1]))
}

/// Where a raw socket sends it.
pub fn target(to: IpAddr) -> SocketAddr {
    (to, 0).into()
}

fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Bytes at an offset from the IP header that must have a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Check {
    offset: usize,
    /// 1, 2 or 4.
    bytes: usize,
    mask: u32,
    value: u32,
}

/// What passes an ear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    checks: Vec<Check>,
    /// Where the echo's IP header is; none where it is encrypted.
    inner: Option<usize>,
    ipv6: bool,
    device: Option<u32>,
}

/// What a packet turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// None where it is encrypted.
    pub request: Option<bool>,
    /// Bytes of the packet, of the innermost that can be seen.
    pub bytes: usize,
}

impl Pattern {
    /// Echoes with this token.
    pub fn echo(token: u16, ipv6: bool) -> Self {
        Self { checks: echo_checks(0, token, ipv6), inner: Some(0), ipv6, device: None }
    }

    /// The same within VXLAN (RFC 7348).
    pub fn tunnelled(token: u16, ipv6: bool, outer: Outer) -> Self {
        let header = outer.header();
        let mut checks = outer.checks(PROTOCOL_UDP);
        checks.push(Check { offset: header + 2, bytes: 2, mask: u32::MAX, value: outer.port.into() });
        checks.push(Check { offset: header + UDP + 4, bytes: 4, mask: !0xff, value: outer.vni << 8 });
        let inner = header + UDP + VXLAN + ETHERNET;
        checks.extend(echo_checks(inner, token, ipv6));
        Self { checks, inner: Some(inner), ipv6, device: None }
    }

    /// All packets of an association.
    pub fn encrypted(spi: u32, outer: Outer) -> Self {
        let mut checks = outer.checks(PROTOCOL_ESP);
        checks.push(Check { offset: outer.header(), bytes: 4, mask: u32::MAX, value: spi });
        Self { checks, inner: None, ipv6: outer.ipv6, device: None }
    }

    /// On this device only.
    pub fn on(self, device: u32) -> Self {
        Self { device: Some(device), ..self }
    }

    /// None for a packet that is none of ours.
    pub fn read(&self, packet: &[u8]) -> Option<Passed> {
        let holds = |check: &Check| {
            let bytes = packet.get(check.offset..check.offset + check.bytes)?;
            let value = bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
            (value & check.mask == check.value).then_some(())
        };
        self.checks.iter().try_for_each(holds)?;
        let start = self.inner.unwrap_or(0);
        let word = |at: usize| Some(usize::from(*packet.get(at)?) << 8 | usize::from(*packet.get(at + 1)?));
        let bytes = if self.ipv6 { word(start + 4)? + IPV6 } else { word(start + 2)? };
        let request = match self.inner {
            Some(inner) if self.ipv6 => Some(*packet.get(inner + IPV6)? == 128),
            Some(inner) => Some(*packet.get(inner + IPV4)? == 8),
            None => None,
        };
        Some(Passed { request, bytes })
    }

    /// For the kernel: any check that fails leads to the last instruction, which drops.
    pub fn program(&self) -> Vec<SockFilter> {
        const LOAD: [(usize, u16); 3] = [(1, 0x30), (2, 0x28), (4, 0x20)];
        const AND: u16 = 0x54;
        const EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        let device = self.device.map(|index| [(0x20, DEVICE), (EQUAL, index)]);
        let checks = self.checks.iter().flat_map(|check| {
            let load = LOAD.iter().find(|(bytes, _)| *bytes == check.bytes).map_or(0, |(_, code)| *code);
            let offset = u32::try_from(check.offset).unwrap_or(u32::MAX);
            [(load, offset), (AND, check.mask), (EQUAL, check.value)]
        });
        let steps: Vec<(u16, u32)> = device.into_iter().flatten().chain(checks).collect();
        let length = steps.len();
        let program = steps.iter().enumerate().map(|(i, (code, k))| {
            // Over the rest and over the instruction that accepts.
            let fail = if *code == EQUAL { u8::try_from(length - i).unwrap_or(u8::MAX) } else { 0 };
            SockFilter::new(*code, 0, fail, *k)
        });
        let snap = u32::try_from(SNAP).unwrap_or(u32::MAX);
        program.chain([SockFilter::new(RETURN, 0, 0, snap), SockFilter::new(RETURN, 0, 0, 0)]).collect()
    }
}

fn echo_checks(start: usize, token: u16, ipv6: bool) -> Vec<Check> {
    let (header, protocol) = if ipv6 { (IPV6, PROTOCOL_ICMPV6) } else { (IPV4, PROTOCOL_ICMP) };
    let mut checks = ip_checks(start, ipv6, protocol);
    checks.push(Check { offset: start + header + 4, bytes: 2, mask: u32::MAX, value: token.into() });
    checks
}

fn ip_checks(start: usize, ipv6: bool, protocol: u32) -> Vec<Check> {
    let (mask, first, at) = if ipv6 { (0xf0, 0x60, 6) } else { (0xff, 0x45, 9) };
    vec![
        Check { offset: start, bytes: 1, mask, value: first },
        Check { offset: start + at, bytes: 1, mask: u32::MAX, value: protocol },
    ]
}

/// The packets of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    pub ipv6: bool,
    pub port: u16,
    pub vni: u32,
}

impl Outer {
    fn header(self) -> usize {
        if self.ipv6 { IPV6 } else { IPV4 }
    }

    fn checks(self, protocol: u32) -> Vec<Check> {
        ip_checks(0, self.ipv6, protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: u16 = 0xbeef;
    const OUTER: Outer = Outer { ipv6: false, port: 4789, vni: 4097 };

    fn tunnelled(inner: &[u8], vni: u32) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.extend([0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0]);
        packet.extend((vni << 8).to_be_bytes());
        packet.extend([0; ETHERNET]);
        packet.extend(inner);
        packet
    }

    #[test]
    fn an_echo_is_as_long_as_asked_and_its_checksum_holds() {
        let packet = echo("10.0.9.3".parse().unwrap(), TOKEN, 7, 84);
        assert_eq!((packet.len(), packet[6], &packet[16..20]), (84, 0x40, &[10, 0, 9, 3][..]));
        assert_eq!(checksum(&packet[IPV4..]), 0);
        assert_eq!(echo("fd00::3".parse().unwrap(), TOKEN, 7, 104).len(), 64);
    }

    #[test]
    fn replies_are_told_from_all_else() {
        let mut packet = echo("10.0.9.3".parse().unwrap(), TOKEN, 7, 84);
        assert_eq!(reply(&packet, false, TOKEN), None, "that is the request");
        packet[IPV4] = 0;
        assert_eq!(reply(&packet, false, TOKEN), Some(7));
        assert_eq!(reply(&packet, false, TOKEN + 1), None);
        assert_eq!(reply(&packet[..22], false, TOKEN), None);
        assert_eq!(reply(&[], false, TOKEN), None);
    }

    #[test]
    fn a_pattern_knows_its_own_packets_inside_and_outside_a_tunnel() {
        let packet = echo("10.0.9.3".parse().unwrap(), TOKEN, 7, 84);
        let passed = Some(Passed { request: Some(true), bytes: 84 });
        assert_eq!(Pattern::echo(TOKEN, false).read(&packet), passed);
        assert_eq!(Pattern::echo(TOKEN + 1, false).read(&packet), None);
        assert_eq!(Pattern::echo(TOKEN, true).read(&packet), None);
        let pattern = Pattern::tunnelled(TOKEN, false, OUTER);
        assert_eq!(pattern.read(&tunnelled(&packet, 4097)), passed);
        assert_eq!(pattern.read(&tunnelled(&packet, 4098)), None);
        assert_eq!(pattern.read(&packet), None);
    }

    #[test]
    fn of_encrypted_packets_only_the_association_is_known() {
        let mut packet = vec![0x45, 0, 5, 0xdc, 0, 0, 0, 0, 64, 50, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.extend([0, 0, 0x10, 1, 0, 0, 0, 1]);
        let passed = Some(Passed { request: None, bytes: 1500 });
        assert_eq!(Pattern::encrypted(0x1001, OUTER).read(&packet), passed);
        assert_eq!(Pattern::encrypted(0x1002, OUTER).read(&packet), None);
    }
}
