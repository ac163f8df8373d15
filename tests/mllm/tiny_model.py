"""Write a random-weight Qwen2.5-VL of 0.6 M parameters to the folder named: enough for a real vLLM server on a CPU.

`python -m tests.mllm.tiny_model FOLDER` with a Python that has torch and transformers. The same weights every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

_SPECIALS = {
    "pad": "<|endoftext|>",
    "start": "<|im_start|>",
    "end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "vision_pad": "<|vision_pad|>",
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
}
_WORDS = "select the frame [1] [2] describe the video scene object box"
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{m['role']}}\n"
    "{% if m['content'] is string %}{{m['content']}}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] in ['image','image_url'] %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{c['text']}}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_model(folder: Path, context: int = 8192) -> None:
    """Write weights, tokenizer, chat template and image processor.

    Args:
        folder: is made.
        context: the most tokens that the model's configuration allows.
    """
    from export.torchvision_ops import declare_operators

    declare_operators()
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    folder.mkdir(parents=True, exist_ok=True)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(_SPECIALS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([_WORDS] * 10, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=_SPECIALS["end"],
        pad_token=_SPECIALS["pad"],
        additional_special_tokens=list(_SPECIALS.values()),
    )
    tokenizer.chat_template = _TEMPLATE
    ids = {name: bpe.token_to_id(token) for name, token in _SPECIALS.items()}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": bpe.get_vocab_size(),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": context,
            "rope_parameters": {
                "rope_type": "default",
                "type": "default",
                "mrope_section": [4, 6, 6],
                "rope_theta": 10000.0,
            },
            "bos_token_id": ids["pad"],
            "eos_token_id": ids["end"],
            "pad_token_id": ids["pad"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    odd = [index for token, index in bpe.get_vocab().items() if not bpe.decoder.decode([token]).isprintable()]
    odd += [index for token, index in bpe.get_vocab().items() if not bpe.decoder.decode([token]).isascii()]
    with torch.no_grad():
        model.lm_head.weight[odd] = 0  # never the likeliest: answers are printable ASCII
    model.save_pretrained(folder)
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=448 * 448),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_TEMPLATE,
    )
    processor.save_pretrained(folder)


if __name__ == "__main__":
    write_tiny_model(Path(sys.argv[1]))
