"""vLLM behind the engine seam: in the trainer's process (`colocated`), or a server asked over HTTP (`server`)."""
