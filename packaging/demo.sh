#!/usr/bin/env bash
# The demonstration: two compute nodes, two tenants, one machine.
#
#   node1 and node2 are network namespaces joined by a veth, their underlay (192.168.77.0/24). A weftd runs in each.
#   The VMs are namespaces too; weft makes their taps in them. The two tenants use the same IP addresses and the same MACs:
#
#       tenant red,  VLAN 10, VNI 1010:   red1  10.0.0.1 (node1)    red2  10.0.0.2 (node1)    red3  10.0.0.3 (node2)
#       tenant blue, VLAN 20, VNI 1020:   blue1 10.0.0.1 (node1)                              blue3 10.0.0.3 (node2)
#
# Every weftctl command is printed as it runs. In the end, or when interrupted, everything is taken down again.
#
#   packaging/demo.sh          the demonstration            KEEP=1 packaging/demo.sh    ... and leave it standing
#   packaging/demo.sh clean    end one that was left standing
#
# WEFT_BIN_DIR says where weftd, weftctl and weft-pktgen are (default: target/release), DEMO how everything is named.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

DEMO=${DEMO:-weft-demo}
RUN=/run/$DEMO
BIN=${WEFT_BIN_DIR:-$PWD/target/release}
NODES=(node1 node2)
VMS=(red1 red2 red3 blue1 blue3)

bold=$'\e[1m' plain=$'\e[0m'
[[ -t 1 ]] || bold='' plain=''
say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
die() { echo "demo: $*" >&2; exit 1; }

# --- taking it down ------------------------------------------------------------------------------------------------

# Ends each weftd, by the pid that was written down when it was started.
end_weftd() {
	local node pid
	for node in "${NODES[@]}"; do
		pid=$(cat "$RUN/$node/pid" 2>/dev/null) || continue
		[[ $(readlink "/proc/$pid/exe" 2>/dev/null) == */weftd* ]] || continue
		kill -TERM "$pid"
		for _ in {1..50}; do
			[[ -d /proc/$pid && $(awk '{print $3}' "/proc/$pid/stat" 2>/dev/null) != Z ]] || continue 2
			sleep 0.1
		done
		echo "demo: weftd of $node did not end on SIGTERM" >&2
		kill -KILL "$pid"
	done
}

clean() {
	local ns pid
	end_weftd
	for ns in "${NODES[@]}" "${VMS[@]}"; do
		ns=$DEMO-$ns
		[[ -e /run/netns/$ns ]] || continue
		# What still runs in there (iperf3 servers) was started by this script.
		for pid in $(ip netns pids "$ns"); do kill -KILL "$pid" 2>/dev/null; done
		ip netns del "$ns"
	done
	rm -rf "$RUN"
}

finish() {
	local code=$?
	trap - EXIT INT TERM HUP
	if [[ -n ${KEEP:-} && $code -eq 0 ]]; then
		how_to_play
	else
		[[ $code -eq 0 ]] || show_logs
		clean
		echo
		[[ $code -ne 0 ]] || echo "Everything is cleaned up."
	fi
	exit "$code"
}

# --- words ---------------------------------------------------------------------------------------------------------

# ctl NODE WORDS...: prints the weftctl command, and runs it at that node's weftd.
ctl() {
	local node=$1 word line=''
	shift
	for word in "$@"; do
		[[ $word != *' '* ]] || word="'$word'"
		line+=" $word"
	done
	echo "$node# weftctl$line"
	"$BIN/weftctl" --socket "$RUN/$node/weft.sock" "$@" || die "that was refused"
}

# quiet NODE WORDS...: the same without printing the command.
quiet() {
	local node=$1
	shift
	"$BIN/weftctl" --socket "$RUN/$node/weft.sock" "$@"
}

in_vm() {
	local vm=$1
	shift
	ip netns exec "$DEMO-$vm" "$@"
}

# --- building it ---------------------------------------------------------------------------------------------------

make_nodes() {
	local node
	for node in "${NODES[@]}"; do
		ip netns add "$DEMO-$node"
		ip -n "$DEMO-$node" link set lo up
	done
	ip link add uplink netns "$DEMO-node1" type veth peer name uplink netns "$DEMO-node2"
	ip -n "$DEMO-node1" addr add 192.168.77.1/24 dev uplink
	ip -n "$DEMO-node2" addr add 192.168.77.2/24 dev uplink
	ip -n "$DEMO-node1" link set uplink up
	ip -n "$DEMO-node2" link set uplink up
	for vm in "${VMS[@]}"; do
		ip netns add "$DEMO-$vm"
		ip -n "$DEMO-$vm" link set lo up
		ip netns exec "$DEMO-$vm" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6' 2>/dev/null
	done
}

start_weftd() {
	local node=$1 dir=$RUN/$1
	mkdir -p "$dir/state"
	echo '[switch]' >"$dir/weft.toml"
	echo "$node# weftd --config $dir/weft.toml --state-dir $dir/state --socket $dir/weft.sock"
	ip netns exec "$DEMO-$node" "$BIN/weftd" \
		--config "$dir/weft.toml" --state-dir "$dir/state" --socket "$dir/weft.sock" </dev/null >"$dir/log" 2>&1 &
	echo $! >"$dir/pid"
	disown
	for _ in {1..100}; do
		quiet "$node" show >/dev/null 2>&1 && return
		[[ -d /proc/$(cat "$dir/pid") ]] || break
		sleep 0.05
	done
	die "weftd of $node did not start"
}

# plug NODE VM VLAN NUMBER: a tap in the VM's namespace; the VM itself sets its MAC and address, the same in both tenants.
plug() {
	local node=$1 vm=$2 vlan=$3 number=$4
	ctl "$node" port add br0 "$vm" type=tap "netns=$DEMO-$vm" "vlan=$vlan"
	ip -n "$DEMO-$vm" link set "$vm" address "02:00:00:00:00:0$number"
	ip -n "$DEMO-$vm" addr add "10.0.0.$number/24" dev "$vm"
	ip -n "$DEMO-$vm" link set "$vm" up
}

# tunnels TYPE: replaces the tunnel between the nodes, and gives the taps the MTU that fits into it.
tunnels() {
	local kind=$1 vm mtu
	if [[ $kind != vxlan ]]; then
		ctl node1 tunnel del to-node2
		ctl node2 tunnel del to-node1
	fi
	ctl node1 tunnel add br0 to-node2 "type=$kind" local=192.168.77.1 remote=192.168.77.2
	ctl node2 tunnel add br0 to-node1 "type=$kind" local=192.168.77.2 remote=192.168.77.1
	mtu=$(quiet node1 --json tunnel show to-node2 | grep -o '"effective_mtu": *[0-9]*' | grep -o '[0-9]*$' | head -1)
	[[ -n $mtu ]] || die "tunnel show has no effective_mtu"
	echo "(the inner MTU of a $kind tunnel over this underlay is $mtu: the VMs take it)"
	for vm in "${VMS[@]}"; do ip -n "$DEMO-$vm" link set "$vm" mtu "$mtu"; done
}

# --- showing it ----------------------------------------------------------------------------------------------------

rows=()
failed=0

# row RESULT(ok|FAIL) WHAT MEASURED
row() {
	rows+=("$(printf '  %-4s  %-52s %s' "$1" "$2" "$3")")
	[[ $1 == ok ]] || failed=1
}

# reaches WHAT VM ADDRESS: five pings, all must be answered, once each.
reaches() {
	local text line rtt
	in_vm "$2" ping -n -q -c 1 -W 2 "$3" >/dev/null 2>&1 # ARP, outside of the measurement
	text=$(in_vm "$2" ping -n -q -i 0.05 -W 1 -c 5 "$3" 2>&1)
	line=$(grep transmitted <<<"$text")
	rtt=$(sed -n 's|^rtt [^=]*= [^/]*/\([^/]*\)/.*|\1|p' <<<"$text")
	if [[ $line == *" 5 received, 0% "* ]]; then
		row ok "$1" "5 of 5 pings, $rtt ms"
	else
		row FAIL "$1" "${line:-$text}"
	fi
}

# no_answer WHAT VM ADDRESS: nobody may answer. Options of ping may stand in front of the address.
no_answer() {
	local line
	# shellcheck disable=SC2086
	line=$(in_vm "$2" ping -n -q -i 0.2 -W 1 -c 3 $3 2>&1 | grep transmitted)
	if [[ $line == *" 0 received"* ]]; then row ok "$1" "no answer"; else row FAIL "$1" "$line"; fi
}

# The echo requests that a VM's kernel has received.
echoes_at() { in_vm "$1" awk '/^Icmp:/ { if (!col) { for (i = 2; i <= NF; i++) if ($i == "InEchos") col = i } else print $col }' /proc/net/snmp; }

# not_seen WHAT FROM ADDRESS OTHER: while FROM pings ADDRESS, the other tenant's VM with that very IP and MAC gets nothing.
not_seen() {
	local before after got
	before=$(echoes_at "$4")
	in_vm "$2" ping -n -q -i 0.05 -W 1 -c 20 "$3" >/dev/null 2>&1
	after=$(echoes_at "$4")
	got="$4 got $((after - before)) of 20 pings"
	if [[ $before == "$after" ]]; then row ok "$1" "$got"; else row FAIL "$1" "$got"; fi
}

# iperf WHAT FROM TO ADDRESS FLAGS...: two seconds from one VM to another.
iperf() {
	local what=$1 from=$2 to=$3 address=$4 text rate lost
	shift 4
	in_vm "$to" iperf3 -s -1 >/dev/null 2>&1 </dev/null &
	local server=$!
	sleep 0.3
	text=$(in_vm "$from" timeout 10 iperf3 -c "$address" -t 2 -f m "$@" 2>&1)
	kill "$server" 2>/dev/null
	wait "$server" 2>/dev/null
	rate=$(grep receiver <<<"$text" | grep -o '[0-9.]* Mbits/sec' | tail -1)
	lost=$(grep receiver <<<"$text" | grep -o '([0-9.e+-]*%)' | tail -1)
	if [[ -n $rate && $rate != 0.00* ]]; then
		row ok "$what" "$rate${lost:+, lost $lost}"
	else
		row FAIL "$what" "$(tail -1 <<<"$text")"
	fi
}

# pktgen WHAT FROM TO: small frames from one VM's tap to the other's, each counted by its sequence number.
pktgen() {
	local what=$1 from=$2 to=$3 text
	if text=$("$BIN/weft-pktgen" --tx "$from@$DEMO-$from" --rx "$to@$DEMO-$to" --size 64 --flows 16 --seconds 2 2>&1); then
		row ok "$what" "$(awk '/^ *sent/ { s = $4 } /^ *received/ { r = $4 } /^ *lost/ { l = $4 } END { printf "%s Mpps sent, %s received, lost %s %%", s, r, l }' <<<"$text")"
	else
		row FAIL "$what" "$(tail -1 <<<"$text")"
	fi
}

# over TYPE: all that crosses the tunnel.
over() {
	local name=$1
	reaches "red1 -> red3, across $name, VNI 1010" red1 10.0.0.3
	reaches "blue1 -> blue3, across $name, VNI 1020" blue1 10.0.0.3
	iperf "TCP red1 -> red3, across $name" red1 red3 10.0.0.3
	iperf "UDP red1 -> red3, across $name, 100 Mbit/s" red1 red3 10.0.0.3 -u -b 100M -l 1400
	pktgen "weft-pktgen red1 -> red3, across $name, 64 bytes" red1 red3
}

isolation() {
	no_answer "blue1 -> 10.0.0.2, which only red has, same node" blue1 10.0.0.2
	no_answer "blue3 -> 10.0.0.2, which only red has, other node" blue3 10.0.0.2
	not_seen "red1 -> 10.0.0.3: blue's VM of that IP and MAC" red1 10.0.0.3 blue3
	not_seen "blue3 -> 10.0.0.1: red's VM of that IP and MAC" blue3 10.0.0.1 red1
}

# traced WHAT OUTCOME: what red1's pings to red3 come to at node1; the trace's last line has to begin with the outcome.
traced() {
	local text last
	local packet=in_port=red1,icmp,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:03,nw_src=10.0.0.1,nw_dst=10.0.0.3
	text=$(ctl node1 trace br0 "$packet") || exit 1
	last=$(tail -1 <<<"$text")
	echo "$text"
	if [[ $last == "$2"* ]]; then row ok "$1" "$2"; else row FAIL "$1" "$last"; fi
}

# A rule that drops, how to find it, and away with it.
flow_tables() {
	ctl node1 flow dump br0
	ctl node1 flow add br0 'priority=100,icmp,in_port=red1,nw_dst=10.0.0.3 actions=drop'
	no_answer "red1 -> red3, while a rule of node1 drops it" red1 10.0.0.3
	traced "weftctl trace says which rule it is" \
		'dropped (rule_drop): the rule of table 0 of bridge br0, priority 100'
	ctl node1 flow dump br0 icmp
	ctl node1 cache show red1 --limit 2
	ctl node1 flow del br0 icmp
	reaches "red1 -> red3, with the rule gone" red1 10.0.0.3
	traced "weftctl trace says where the pings go now" 'forwarded to to-node2'
}

# told WHAT NODE PORT WORDS...: what `weftctl why` tells of the port while red1 pings red3; it has to have each of the words.
told() {
	local what=$1 node=$2 port=$3 text word missing='' pings
	shift 3
	in_vm red1 ping -n -q -i 0.1 10.0.0.3 >/dev/null 2>&1 &
	pings=$!
	text=$(ctl "$node" why "$port")
	kill "$pings"
	wait "$pings" 2>/dev/null
	echo "$text"
	for word in "$@"; do [[ $text == *"$word"* ]] || missing+=" '$word'"; done
	if [[ -z $missing ]]; then row ok "$what" "$1"; else row FAIL "$what" "not told:$missing"; fi
}

# cut WHAT COMMAND...: forty pings from red1 to red3, during which a command ends what permits them.
cut() {
	local what=$1 pings got
	shift
	in_vm red1 ping -n -q -i 0.05 -W 1 -c 40 10.0.0.3 >"$RUN/pings" 2>&1 &
	pings=$!
	sleep 0.7
	"$@"
	wait "$pings"
	got=$(sed -n 's/.* \([0-9]*\) received.*/\1/p' "$RUN/pings")
	if [[ ${got:-0} -gt 0 && $got -lt 40 ]]; then
		row ok "$what" "$got of 40 pings, then none"
	else
		row FAIL "$what" "${got:-none} of 40 pings"
	fi
}

# A group that permits nothing yet, what is told of that, and what it permits then.
security_groups() {
	ctl node2 port set red3 'port_security=02:00:00:00:00:03 10.0.0.3'
	ctl node2 acl group add servers
	ctl node2 acl rule add servers egress
	ctl node2 acl bind red3 servers
	no_answer "red1 -> red3, whose group permits nothing to come" red1 10.0.0.3
	told "weftctl why at node2 says who refuses the pings" node2 red3 acl_ingress 'servers of port red3' 'ICMP echo request'
	told "weftctl why at node1 says where they left" node1 red1 'by to-node2 (gre to 192.168.77.2, VNI 1010)'
	ctl node2 acl rule add servers ingress protocol=icmp icmp=8
	ctl node2 acl rule add servers ingress protocol=tcp ports=5201
	reaches "red1 -> red3, permitted by a rule" red1 10.0.0.3
	iperf "TCP red1 -> red3, port 5201 permitted by another" red1 red3 10.0.0.3
	ctl node2 conntrack list src=10.0.0.1 dport=5201
	ctl node2 acl show servers
	cut "a ping that runs when its rule goes" ctl node2 acl rule del servers 2
	in_vm red3 ip addr add 10.0.0.77/24 dev red3
	no_answer "red3 with an address that is not its own" red3 '-I 10.0.0.77 10.0.0.1'
	ctl node2 acl show red3
	ctl node2 acl bind red3
	ctl node2 port set red3 port_security=
	reaches "red1 -> red3, unbound" red1 10.0.0.3
}

show_logs() {
	local node
	for node in "${NODES[@]}"; do
		[[ -s $RUN/$node/log ]] && { echo "--- log of $node's weftd"; tail -20 "$RUN/$node/log"; } >&2
	done
}

how_to_play() {
	cat <<-END

		It is left standing. To play with it:

		  $BIN/weftctl --socket $RUN/node1/weft.sock show
		  $BIN/weftctl --socket $RUN/node1/weft.sock fdb show
		  $BIN/weftctl --socket $RUN/node2/weft.sock stats drops
		  $BIN/weftctl --socket $RUN/node1/weft.sock flow dump br0
		  $BIN/weftctl --socket $RUN/node2/weft.sock acl show
		  $BIN/weftctl --socket $RUN/node1/weft.sock why red1
		  ip netns exec $DEMO-red1 ping 10.0.0.3
		  ip netns exec $DEMO-blue1 ping 10.0.0.3
		  $BIN/weftctl --socket $RUN/node1/weft.sock tunnel show to-node2

		The VMs are ${VMS[*]} (namespaces $DEMO-NAME). 'make clean-demo' ends it.
	END
}

# --- the demonstration ---------------------------------------------------------------------------------------------

[[ $EUID -eq 0 ]] || die "needs root: it makes network namespaces and tap devices"
if [[ ${1:-} == clean ]]; then
	clean
	exit 0
fi
[[ $# -eq 0 ]] || die "'$1'? It takes no words but 'clean'"
for program in weftd weftctl weft-pktgen; do
	[[ -x $BIN/$program ]] || die "$BIN/$program is not built: cargo build --release --bins"
done

clean # what an earlier one left
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir -p "$RUN"
started=$SECONDS

say "Two compute nodes"
make_nodes
for node in "${NODES[@]}"; do start_weftd "$node"; done

say "Bridges, VMs, and which VLAN is which VNI"
for node in "${NODES[@]}"; do ctl "$node" bridge add br0; done
plug node1 red1 10 1
plug node1 red2 10 2
plug node1 blue1 20 1
plug node2 red3 10 3
plug node2 blue3 20 3
for node in "${NODES[@]}"; do
	ctl "$node" vni map br0 10 1010
	ctl "$node" vni map br0 20 1020
done

say "VXLAN between the nodes"
tunnels vxlan
echo "(measuring: pings, TCP, UDP, isolation; about 15 seconds)"
reaches "red1 -> red2, same node" red1 10.0.0.2
iperf "TCP red1 -> red2, same node" red1 red2 10.0.0.2
pktgen "weft-pktgen red1 -> red2, same node, 64 bytes" red1 red2
over VXLAN
isolation

say "GRE instead"
tunnels gre
echo "(measuring again)"
over GRE
isolation

say "Flow tables: a rule that is in the way"
flow_tables

say "Security groups: a port that is closed, is opened, and says why"
security_groups

say "What the nodes know"
for node in "${NODES[@]}"; do
	ctl "$node" fdb show br0
	ctl "$node" stats ports
	ctl "$node" stats drops
done

say "node1 on one screen"
ctl node1 show

say "The results"
printf '%s\n' "${rows[@]}"
echo
echo "$((SECONDS - started)) seconds."
[[ $failed -eq 0 ]] || die "not everything is as it should be"
