#!/usr/bin/env bash
# Builds the guest that the QEMU tests boot, in the folder given (default: target/guest): Debian's cloud kernel, taken out of
# its package without installing it, and an initramfs of busybox and the virtio network modules. Does nothing when both are there.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../target/guest}
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [[ -s $out/vmlinuz && $out/initramfs.gz -nt $here/init && $out/initramfs.gz -nt $here/build.sh ]]; then
	exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

# download: the kernel's package, of the version that apt's lists have.
download() {
	local package
	package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ && !seen++ {print $2}')
	[[ -n $package ]] || return 1
	echo "guest: taking the kernel out of $package"
	apt-get download -qq -o APT::Sandbox::User=root "$package"
}

# Lists that are old, or empty, name no package that is still there.
download || { apt-get update -qq && download; } || { echo "guest: no linux-image-cloud-amd64 to be had" >&2; exit 1; }
package=$(basename "$(ls linux-image-*.deb)" | cut -d_ -f1)
dpkg-deb -x "$package"_*.deb kernel

mkdir -p root/{bin,dev,proc,sys,modules,tmp}
cp "$(command -v busybox)" root/bin/busybox
install -m 755 "$here/init" root/init
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net; do
	find kernel/lib/modules -name "$module.ko" -exec cp {} root/modules/ \;
done
(cd root && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$out/initramfs.gz.new"
cp kernel/boot/vmlinuz-* "$out/vmlinuz"
mv "$out/initramfs.gz.new" "$out/initramfs.gz"
