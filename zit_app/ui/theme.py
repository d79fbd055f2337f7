"""Colours and type: quiet slate, one indigo accent, fonts of the machine itself (nothing is fetched)."""

from pathlib import Path

import gradio as gr

STYLE = Path(__file__).with_name("style.css")
ICON = Path(__file__).with_name("icon.svg")
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif")


def theme() -> gr.themes.Base:
    """White text on indigo-700 and red-700 keeps the contrast that WCAG AA asks for (4.5 to 1)."""
    return gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        font=FONTS,
        font_mono=("ui-monospace", "Consolas", "monospace"),
        radius_size="md",
        text_size="md",
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_border_width="1px",
        block_shadow="none",
        block_radius="10px",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_100",
        block_label_text_weight="500",
        block_title_text_weight="600",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        button_border_width="1px",
        button_cancel_border_color="*neutral_300",
        button_cancel_border_color_dark="*neutral_600",
        button_cancel_background_fill="white",
        button_cancel_background_fill_dark="*neutral_800",
        button_cancel_text_color="#b91c1c",
        button_cancel_text_color_dark="#fca5a5",
        slider_color="*primary_600",
    )
