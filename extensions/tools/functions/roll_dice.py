"""Dice, rolled by the system's own source of randomness."""

import random

tool = {
    "type": "function",
    "function": {
        "name": "roll_dice",
        "description": "Roll dice at random, such as 3 dice with 6 sides.",
        "parameters": {
            "type": "object",
            "properties": {
                "count": {
                    "type": "integer", "description": "How many dice.",
                    "minimum": 1, "maximum": 100,
                },
                "sides": {
                    "type": "integer", "description": "How many sides each has.",
                    "minimum": 2, "maximum": 1000000,
                },
            },
            "required": ["count", "sides"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip


def execute(arguments: dict) -> dict:
    """Each die, and their sum."""
    source = random.SystemRandom()
    sides = int(arguments["sides"])
    rolls = [source.randint(1, sides) for _ in range(int(arguments["count"]))]
    return {"rolls": rolls, "sum": sum(rolls)}
