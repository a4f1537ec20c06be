"""The date and the time of this machine, or of a time zone."""

from datetime import datetime
from zoneinfo import ZoneInfo

tool = {
    "type": "function",
    "function": {
        "name": "current_time",
        "description": "The current date, weekday and time, here or in a time zone.",
        "parameters": {
            "type": "object",
            "properties": {
                "time_zone": {
                    "type": "string",
                    "description": "A zone by its IANA name, such as Europe/Vienna. Leave it out "
                    "for the time here.",
                }
            },
            "additionalProperties": False,
        },
    },
}


def execute(arguments: dict) -> str:
    """Date, weekday, time and zone."""
    name = arguments.get("time_zone", "")
    try:
        now = datetime.now(ZoneInfo(name)) if name else datetime.now().astimezone()
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}; write it as Europe/Vienna") from error
    week = now.isocalendar().week
    return f"{now:%A, %Y-%m-%d, %H:%M:%S} {now.tzname()} (week {week})"
