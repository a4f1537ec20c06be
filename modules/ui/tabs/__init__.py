"""One module a tab: layout in `build`, events in `bind`."""
