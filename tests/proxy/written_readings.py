"""What each stream of `tests/written` reads as, written down from the files."""

from __future__ import annotations

from collections.abc import Mapping

from llmproxy.values import MeterReading, Usage
from tests.proxy.metering import CHAT, MESSAGES, RESPONSES, estimated

COMPLETIONS = b"/v1/completions"

READINGS: Mapping[str, tuple[bytes, MeterReading]] = {
    "tgi_chat": (CHAT, estimated(4, "stop")),
    "tgi_chat_usage": (CHAT, MeterReading(Usage(39, 5, 44), "exact", "stop")),
    "tgi_tools_usage": (
        CHAT,
        MeterReading(Usage(190, 21, 211), "exact", "stop", {"get_weather": 1}),
    ),
    "tgi_completions_usage": (COMPLETIONS, MeterReading(Usage(6, 3, 9), "exact", "length")),
    "tgi_error": (
        CHAT,
        MeterReading(
            Usage(1000, 2, 1002),
            "partial",
            error="Request failed during generation: Server error: CUDA out of memory",
        ),
    ),
    "sglang_chat": (CHAT, estimated(6, "stop")),
    "sglang_reasoning_usage": (CHAT, MeterReading(Usage(24, 8, 32, 16, 4), "exact", "stop")),
    "sglang_sglext_usage": (CHAT, MeterReading(Usage(24, 8, 32, 16, 4), "exact", "stop")),
    "sglang_tools_usage": (
        CHAT,
        MeterReading(Usage(212, 57, 269), "exact", "tool_calls", {"get_weather": 2, "get_time": 1}),
    ),
    "sglang_continuous_n2": (CHAT, MeterReading(Usage(10, 5, 15), "exact", "length")),
    "sglang_continuous_n2_usage": (CHAT, MeterReading(Usage(10, 5, 15, 8), "exact", "length")),
    "sglang_error": (
        CHAT,
        MeterReading(
            Usage(24, 4, 28, 16), "partial", error="KV cache pool is full. Retract decode."
        ),
    ),
    "ollama_chat": (CHAT, estimated(4, "stop")),
    "ollama_chat_usage": (CHAT, MeterReading(Usage(11, 6, 17), "exact", "stop")),
    "ollama_tools_usage": (
        CHAT,
        MeterReading(Usage(170, 40, 210), "exact", "tool_calls", {"get_weather": 1, "get_time": 1}),
    ),
    "ollama_completions_usage": (COMPLETIONS, MeterReading(Usage(4, 3, 7), "exact", "stop")),
    "ollama_messages_tools": (
        MESSAGES,
        MeterReading(Usage(31, 44, 75), "exact", "tool_use", {"get_weather": 1}),
    ),
    "ollama_responses_tools": (
        RESPONSES,
        MeterReading(Usage(31, 44, 75), "exact", "completed", {"get_weather": 1}),
    ),
}
