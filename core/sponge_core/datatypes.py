"""The datatypes of the Open Inference Protocol as numpy types, for client and server."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["NUMPY_TYPES"]

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The fixed-size datatypes that numpy has (BF16 is missing), little-endian as on the wire."""
