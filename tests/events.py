"""TensorBoard's files, read back."""

import pathlib

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c


def read_events(folder: pathlib.Path) -> list[Event]:
    """What TensorBoard's files hold, by their format: length, crc, record, crc."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            assert masked_crc32c(data[:8]) == int.from_bytes(data[8:12], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found
