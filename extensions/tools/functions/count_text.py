"""Letters, words and lines of a text, which models count badly."""

tool = {
    "type": "function",
    "function": {
        "name": "count_text",
        "description": "Count the characters, words and lines of a text, and how often something "
        "occurs in it, such as a letter.",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "The text to look at."},
                "find": {
                    "type": "string",
                    "description": "What to count in it; upper and lower case are the same.",
                },
            },
            "required": ["text"],
            "additionalProperties": False,
        },
    },
}


def execute(arguments: dict) -> dict:
    """What was counted."""
    text, find = arguments["text"], arguments.get("find", "")
    found = {"characters": len(text), "words": len(text.split()), "lines": len(text.splitlines())}
    if find:
        found[f"occurrences of {find!r}"] = text.casefold().count(find.casefold())
    return found
