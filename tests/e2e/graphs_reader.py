"""Reads a file of performance data as xcp-rrdd does, from the description of its protocol alone
(plugin-protocol-v2 of xapi-project/xen-api), and prints what is in it as JSON.

graphs_reader.py <file>
"""

import json
import struct
import sys
import zlib

OWNERS = ("host", "vm ", "sr ")

with open(sys.argv[1], "rb") as file:
    raw = file.read()
header, data_crc, metadata_crc, count = struct.unpack_from(">11sIII", raw)
assert header == b"DATASOURCES", header
values_end = 23 + 8 + 8 * count
assert zlib.crc32(raw[23:values_end]) == data_crc, "checksum of the data"
(timestamp,) = struct.unpack_from(">d", raw, 23)
(length,) = struct.unpack_from(">I", raw, values_end)
text = raw[values_end + 4 : values_end + 4 + length]
assert len(raw) == values_end + 4 + length, "something is behind the metadata"
assert zlib.crc32(text) == metadata_crc, "checksum of the metadata"
sources = json.loads(text)["datasources"]
assert len(sources) == count, (len(sources), count)

read = {"timestamp": timestamp, "values": {}}
for number, (name, about) in enumerate(sources.items()):
    assert set(about) >= {
        "description", "owner", "value_type", "type", "default", "units", "min", "max",
    }, about
    assert about["owner"].startswith(OWNERS), about
    assert about["type"] in ("absolute", "derive", "gauge"), about
    float(about["min"]), float(about["max"])
    form = {"int64": ">q", "float": ">d"}[about["value_type"]]
    (value,) = struct.unpack_from(form, raw, 31 + 8 * number)
    read["values"][name] = {
        "value": value, "owner": about["owner"], "type": about["type"], "units": about["units"],
    }
print(json.dumps(read))
