"""The keys of the seed's own hub.yaml that mlxhub has no use for, so that an existing file moves over."""

from __future__ import annotations

from collections.abc import Mapping

_NEEDS_COMMAND = "for other servers than mlx_lm give the model a `command:`"

HUB_KEYS: Mapping[str, str] = {
    "port": "each model has its own port; see `model_starting_port:`",
    "enable_status_page": "the hub serves no page; remove it",
}
"""At the top of the file: each key, and what to write instead."""

MODEL_KEYS: Mapping[str, str] = {
    "model_type": f"remove it for a language model; {_NEEDS_COMMAND}",
    "host": "write `host:` at the top of the file",
    "log_level": "write `options: {log-level: DEBUG}`",
    "log_file": "each model's output is in its own file under `log_path:`",
    "no_log_file": "each model's output is in its own file under `log_path:`",
    "trust_remote_code": "write `options: {trust-remote-code: true}`",
    "lora_paths": "write `options: {adapter-path: DIR}`",
    "lora_paths_str": "write `options: {adapter-path: DIR}`",
    "context_length": "mlx_lm server takes it from the model; remove it",
    "max_concurrency": "write `options: {decode-concurrency: 4, prompt-concurrency: 4}`",
    "queue_timeout": "mlx_lm server has no queue to set; remove it",
    "queue_size": "mlx_lm server has no queue to set; remove it",
    "jit_enabled": "leave out `default: true` and start the model when you want it",
    "auto_unload_minutes": "leave out `default: true` and stop the model when you want to",
    "is_default_model": "write `default: true`",
    "enable_auto_tool_choice": "mlx_lm server decides by the model's chat template; remove it",
    "tool_call_parser": "mlx_lm server decides by the model's chat template; remove it",
    "reasoning_parser": "mlx_lm server decides by the model's chat template; remove it",
    "quantize": _NEEDS_COMMAND,
    "config_name": _NEEDS_COMMAND,
    "lora_scales": _NEEDS_COMMAND,
    "lora_scales_str": _NEEDS_COMMAND,
    "disable_auto_resize": _NEEDS_COMMAND,
    "enable_status_page": "the hub serves no page; remove it",
}
"""In an entry of `models:`: each key, and what to write instead."""
