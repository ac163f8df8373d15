"""Who decides: grounding's scores, a multimodal LLM, or recorded answers."""
