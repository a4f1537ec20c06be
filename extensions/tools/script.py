"""Tools that the model calls in chat, with your approval: functions and MCP servers.

The functions of this folder are in `functions/`; your own go to `user_data/tools/`, and MCP
servers into `user_data/mcp.json`. See docs/tools.md. Lantern has the machinery, and looks
whether this extension is on; it has no hooks.
"""

params = {"display_name": "Tools", "is_tab": False}
