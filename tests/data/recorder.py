"""Prints every frame that devices receive: `DEVICE HEX` per line, the VLAN tag that the kernel took off put back in place.

Arguments: devices. Says `ready` first. Runs until it is ended.
"""
import selectors
import socket
import struct
import sys

PACKET_AUXDATA = 8
SOL_PACKET = 263
PACKET_OUTGOING = 4
SO_RCVBUFFORCE = 33
VLAN_VALID, TPID_VALID = 0x10, 0x40

watched = selectors.DefaultSelector()
for device in sys.argv[1:]:
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    packets.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    packets.bind((device, 3))
    watched.register(packets, selectors.EVENT_READ, device)
print("ready", flush=True)
while True:
    for key, _ in watched.select():
        frame, extras, _, address = key.fileobj.recvmsg(65536, 256)
        if address[2] == PACKET_OUTGOING:
            continue
        for level, kind, data in extras:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", data[:20])
                if status & VLAN_VALID:
                    tag = struct.pack("!HH", tpid if status & TPID_VALID else 0x8100, tci)
                    frame = frame[:12] + tag + frame[12:]
        print(key.data, frame.hex(), flush=True)
