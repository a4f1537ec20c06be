"""Units of length, mass, volume, speed, time, data and temperature."""

tool = {
    "type": "function",
    "function": {
        "name": "convert_units",
        "description": "Convert a quantity from one unit to another of the same kind: length (m, "
        "km, mi, ft, in, ...), mass (kg, g, lb, oz), volume (l, ml, gal, cup), speed (m/s, km/h, "
        "mph, kn), time (s, min, h, d), data (B, KB, MB, GB, KiB, MiB, GiB), temperature (C, F, "
        "K).",
        "parameters": {
            "type": "object",
            "properties": {
                "value": {"type": "number", "description": "How much."},
                "from_unit": {"type": "string", "description": "The unit that it is in."},
                "to_unit": {"type": "string", "description": "The unit that is wanted."},
            },
            "required": ["value", "from_unit", "to_unit"],
            "additionalProperties": False,
        },
    },
}

_KINDS = {
    "length": {
        "m": 1, "km": 1000, "cm": 0.01, "mm": 0.001, "mi": 1609.344, "yd": 0.9144, "ft": 0.3048,
        "in": 0.0254, "nmi": 1852,
    },
    "mass": {"kg": 1, "g": 0.001, "mg": 1e-6, "t": 1000, "lb": 0.45359237, "oz": 0.028349523125},
    "volume": {
        "l": 1, "ml": 0.001, "m3": 1000, "gal": 3.785411784, "qt": 0.946352946,
        "pt": 0.473176473, "cup": 0.2365882365, "floz": 0.0295735295625,
    },
    "speed": {"m/s": 1, "km/h": 1 / 3.6, "mph": 0.44704, "kn": 1852 / 3600},
    "time": {"s": 1, "ms": 0.001, "min": 60, "h": 3600, "d": 86400, "week": 604800},
    "data": {
        "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 1024, "MiB": 1024**2,
        "GiB": 1024**3, "TiB": 1024**4,
    },
}  # fmt: skip
_TO_KELVIN = {
    "K": lambda t: t, "C": lambda t: t + 273.15, "F": lambda t: (t + 459.67) * 5 / 9
}  # fmt: skip
_FROM_KELVIN = {
    "K": lambda t: t, "C": lambda t: t - 273.15, "F": lambda t: t * 9 / 5 - 459.67
}  # fmt: skip


def execute(arguments: dict) -> str:
    """The quantity in the other unit."""
    value, old, new = (arguments[key] for key in ("value", "from_unit", "to_unit"))
    if old in _TO_KELVIN and new in _FROM_KELVIN:
        found = _FROM_KELVIN[new](_TO_KELVIN[old](value))
    else:
        units = next((u for u in _KINDS.values() if old in u and new in u), None)
        if units is None:
            known = ", ".join(unit for kind in (*_KINDS.values(), _TO_KELVIN) for unit in kind)
            raise ValueError(f"{old} cannot be converted to {new}; the units are {known}")
        found = value * units[old] / units[new]
    return f"{value:g} {old} = {found:.10g} {new}"
