"""Colours, type and measures, for gradio's own widgets; page.css does the rest."""

from __future__ import annotations

import gradio as gr

__all__ = ["lantern_theme"]

_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]

_COLOURS = {
    "body_background_fill": "var(--paper)",
    "body_text_color": "var(--ink)",
    "body_text_color_subdued": "var(--ink-soft)",
    "background_fill_primary": "var(--paper)",
    "background_fill_secondary": "var(--paper-2)",
    "block_background_fill": "transparent",
    "block_border_color": "var(--line)",
    "block_info_text_color": "var(--ink-soft)",
    "block_label_background_fill": "transparent",
    "block_label_text_color": "var(--ink-soft)",
    "block_title_text_color": "var(--ink)",
    "border_color_primary": "var(--line)",
    "border_color_accent": "var(--accent)",
    "button_primary_background_fill": "var(--accent)",
    "button_primary_background_fill_hover": "var(--accent-strong)",
    "button_primary_border_color": "var(--accent)",
    "button_primary_text_color": "var(--on-accent)",
    "button_secondary_background_fill": "var(--paper-2)",
    "button_secondary_background_fill_hover": "var(--paper-3)",
    "button_secondary_border_color": "var(--line)",
    "button_secondary_text_color": "var(--ink)",
    "checkbox_background_color": "var(--paper)",
    "checkbox_background_color_selected": "var(--accent)",
    "checkbox_border_color": "var(--line-strong)",
    "checkbox_border_color_selected": "var(--accent)",
    "color_accent_soft": "var(--accent-soft)",
    "input_background_fill": "var(--paper)",
    "input_background_fill_focus": "var(--paper)",
    "input_border_color": "var(--line)",
    "input_border_color_focus": "var(--accent)",
    "slider_color": "var(--accent)",
}


def lantern_theme() -> gr.themes.Base:
    """Neutral greys and one amber accent. The colours are the variables of page.css."""
    theme = gr.themes.Base(
        primary_hue="amber",
        neutral_hue="stone",
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_md,
        font=_FONTS,
        font_mono=_MONO,
    )
    dark = {f"{name}_dark": value for name, value in _COLOURS.items()}
    return theme.set(
        **_COLOURS,
        **dark,
        color_accent="var(--accent)",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_padding="10px 0",
        button_small_radius="8px",
        button_medium_radius="8px",
        button_large_radius="8px",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_radius="8px",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px var(--accent-soft)",
        input_shadow_focus_dark="0 0 0 3px var(--accent-soft)",
    )
