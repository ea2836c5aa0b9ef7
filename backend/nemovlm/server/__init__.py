"""A server that speaks the NIM protocol over any engine: `nemovlm serve`. Needs the `[server]` extra."""
