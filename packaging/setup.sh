#!/usr/bin/env bash
# Installs what is missing on a Debian 12 machine, says what and why, and does nothing when all is there.
#
#   packaging/setup.sh [build] [demo] [test] [bench]      (without words: build demo)
#
# No service is started: a policy-rc.d that forbids it is in place while packages are installed.
set -euo pipefail

# package: why
build="
gcc: links Rust programs, compiles libxdp and libbpf
libc6-dev: the C library's headers
clang: compiles libxdp's XDP programs, and reads C headers for its Rust bindings
llvm: llc and llvm-strip for the XDP programs
libclang-dev: what bindgen reads C headers with
m4: libxdp's build
make: libxdp's build
pkg-config: libxdp's build
libelf-dev: libbpf reads ELF files
zlib1g-dev: libelf's compressed sections
libpcap-dev: libxdp's build
"
demo="
iproute2: namespaces, veth pairs, addresses
iputils-ping: ping
iperf3: TCP and UDP throughput
ethtool: offloads of the veth pairs
procps: processes, by pid
"
test="
openvswitch-switch: stock Open vSwitch, the peer of the VXLAN, GRE and VLAN tests
openvswitch-common: its tools
tcpdump: captures
tshark: judges every byte on the wire
qemu-system-x86: the one real guest
busybox-static: the guest's userland
python3-minimal: sends raw frames, and records what devices receive
socat: TCP between namespaces
util-linux: setpriv, unshare
iptables: iptables-legacy, by which the kernel's connection tracking is asked
gzip: the guest's initramfs
curl: fetches pages, and files by FTP and TFTP
vsftpd: the FTP server
dnsmasq-base: TFTP, DHCP, DHCPv6 and router advertisements
isc-dhcp-client: dhclient, for both families
traceroute: both kinds of it
"
bench="
openvswitch-switch-dpdk: the switch that weft is compared with
dpdk: testpmd
python3: the peer's scripts
"

# Prints `package: why` for each package of these groups that is not installed.
missing() {
	local group line
	for group in "$@"; do
		while read -r line; do
			[[ -z $line ]] && continue
			dpkg-query -W -f '${db:Status-Status}' "${line%%:*}" 2>/dev/null | grep -qx installed || echo "$line"
		done <<<"${!group}"
	done
}

install_packages() {
	local wanted=("$@") policy=/usr/sbin/policy-rc.d
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	if [[ ! -e $policy ]]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${wanted[@]}" >/dev/null
}

# Rust is the one thing that is not installed for you: the machine's owner decides where it comes from.
check_rust() {
	local wanted found
	wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
	if ! command -v cargo >/dev/null; then
		echo "setup: no cargo on the PATH. Rust $wanted or newer is needed (rustup installs it)" >&2
		exit 1
	fi
	found=$(cargo --version | awk '{print $2}')
	if [[ $(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -1) != "$wanted" ]]; then
		echo "setup: cargo is $found, weft needs Rust $wanted or newer: 'rustup update stable', or install it by rustup" >&2
		exit 1
	fi
}

[[ $# -gt 0 ]] || set -- build demo
for group in "$@"; do
	[[ $group =~ ^(build|demo|test|bench)$ ]] || { echo "setup: no group '$group': build, demo, test or bench" >&2; exit 2; }
done

list=$(missing "$@")
if [[ -n $list ]]; then
	echo "setup: these packages are missing:"
	sed 's/^/  /' <<<"$list"
	if [[ $EUID -ne 0 ]]; then
		echo "setup: run this as root to install them" >&2
		exit 1
	fi
	mapfile -t packages < <(cut -d: -f1 <<<"$list")
	echo "setup: installing them"
	install_packages "${packages[@]}"
fi
check_rust
