"""Which architectures are there? A tiny random model of every causal LM that the installed transformers knows, from its config class alone.

    model = build("mistral")     # float32, eval mode, the same weights every time

Fields are set by their names wherever a config has them; what a class wants beyond that is in `OF_KIND`. Windows are 8 tokens wide, so
that they are passed within a test; layers are as many as it takes for every kind of layer to occur.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from tiny import save_tiny
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

PAD, EOS, BOS, VOCABULARY = 0, 1, 2, 128
HIDDEN, HEADS, HEAD, INNER, WINDOW, CONTEXT = 32, 4, 8, 48, 8, 128


def _named(value: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


SIZES: dict[str, Any] = {
    **_named(VOCABULARY, "vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size"),
    **_named(PAD, "pad_token_id pad_index"),
    **_named(EOS, "eos_token_id eos_index"),
    **_named(BOS, "bos_token_id bos_index decoder_start_token_id sep_token_id cls_token_id"),
    **_named(
        VOCABULARY - 1,
        "forced_eos_token_id image_token_id video_token_id audio_token_id image_token_index mask_token_id",
    ),
    **_named(
        VOCABULARY - 1,
        "boi_token_id eoi_token_id boa_token_id eoa_token_id eoa_token_index boi_token_index eoi_token_index",
    ),
    **_named(VOCABULARY - 1, "vision_start_token_id vision_end_token_id eod_token_id mask_index unk_index"),
    **_named(HIDDEN, "hidden_size d_model n_embd dim emb_dim embedding_dim embedding_size word_embed_proj_dim"),
    **_named(HIDDEN, "input_embedding_size output_embedding_size lru_width attention_hidden_size backbone_hidden_size"),
    **_named(HEADS, "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads"),
    **_named(HEADS, "encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads"),
    **_named(HEADS, "swa_num_attention_heads linear_num_heads"),
    **_named(2, "num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads num_query_groups"),
    **_named(4, "linear_num_value_heads"),
    **_named(HEAD, "head_dim swa_head_dim kv_channels dim_head d_head attention_head_dim linear_head_dim qk_head_dim"),
    **_named(HEAD, "qk_nope_head_dim v_head_dim linear_key_head_dim linear_value_head_dim index_head_dim"),
    **_named(HEAD, "query_pre_attn_scalar attention_head_size global_head_dim"),
    **_named(4, "qk_rope_head_dim rotary_dim"),
    **_named(
        INNER, "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dff dim_ff d_inner n_inner"
    ),
    **_named(
        INNER, "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size intermediate_size_mlp"
    ),
    **_named(
        INNER, "expert_ffn_hidden_size dense_intermediate_size feed_forward_size shared_experts_intermediate_size"
    ),
    **_named(INNER, "moe_shared_expert_intermediate_size moe_ffn_hidden_size"),
    **_named(2, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_blocks"),
    **_named(2, "num_encoder_layers num_decoder_layers num_layers_per_stack"),
    **_named(
        CONTEXT, "max_position_embeddings n_positions n_ctx max_seq_len max_source_positions max_target_positions"
    ),
    **_named(CONTEXT, "context_length index_topk model_max_length position_bias_max_distance relative_max_distance"),
    **_named(WINDOW, "sliding_window sliding_window_size attention_chunk_size window_size local_attention"),
    **_named(WINDOW, "attention_window_size keep_window_size local_attention_window_len"),
    **_named(4, "num_experts num_local_experts n_routed_experts moe_num_experts num_experts_per_layer"),
    **_named(2, "num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k top_k_experts zero_expert_num"),
    **_named(1, "n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group num_expert_group"),
    **_named(1, "first_k_dense_replace num_dense_layers num_nextn_predict_layers moe_layer_start_index"),
    **_named(
        8, "kv_lora_rank q_lora_rank mamba_d_state state_size ssm_state_size gated_norm_rank adapter_rank o_lora_rank"
    ),
    **_named(8, "hidden_size_per_layer_input laurel_rank router_hidden_size d_rel hc_lowrank ple_embed_dim"),
    **_named(2, "index_n_heads o_groups time_step_rank mamba_dt_rank hc_mult hc_count"),
    **_named(8, "mamba_n_heads mamba_num_heads n_mamba_heads"),  # of 8, as two times the hidden size have it
    **_named(8, "mamba_d_head mamba_head_dim mamba_headdim"),
    **_named(16, "chunk_size mamba_chunk_size block_size index_block_size rel_extent"),
    **_named(True, "is_decoder"),
    **_named(4.0, "logits_scaling final_logit_softcapping logits_soft_cap output_logit_soft_cap"),
    **_named(0.5, "lm_head_multiplier residual_multiplier attention_multiplier"),
    **_named(2.0, "embedding_multiplier"),
    **_named(0.2, "initializer_range init_std embed_init_std initializer_factor embedding_initializer_range"),
}
DEEP = 4  # layers where they are of several kinds
DEPTHS = [name for name, value in SIZES.items() if "layer" in name and value == 2 and "nextn" not in name]
PATTERNS = ("layer_types", "mlp_layer_types", "layers_block_type", "block_types", "indexer_types")
SLIDING, FULL = ["sliding_attention", "full_attention"] * 2, ["full_attention"] * 2
MAMBA = {"layer_types": ["linear_attention", "full_attention"]}
QSA = {
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD,
}
ROPE = {kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]} for kind in SLIDING[:2]}
NARROW = {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 4, "q_lora_rank": 4, "head_dim": 12}
NARROW |= {"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
PER_LAYER = {"num_kv_shared_layers": 2, "num_hidden_layers": 4}
OF_KIND: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2},
        "ffn_config": {"ffn_hidden_size": INNER, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "cohere_compass_text": {"layer_types": SLIDING, "num_hidden_layers": 4, "rope_parameters": ROPE},
    "dots3_note_text": {"per_layer_config": {"1": NARROW, "3": NARROW}},
    "dots1": {"layer_types": SLIDING, "num_hidden_layers": 4},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": PER_LAYER,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": MAMBA,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"qk_head_dim": 12, "head_dim": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "nemotron_h": {"n_groups": 2},
    "qwen4_exp_text": QSA,
    "qwen4_exp": {"text_config": QSA},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "num_buckets": 4, "hash_seed": 0},
    "roc_bert": {
        "pronunciation_vocab_size": 128,
        "shape_vocab_size": 128,
        "pronunciation_embed_dim": 16,
        "shape_embed_dim": 16,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "n_mamba_heads": 2, "num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
}
CANNOT = {  # and why
    "blt": "reads bytes in patches that a second model cuts, and has no tokens of its own",
    "dbrx": "transformers 5.23 asks its attention config for rope_theta, which that has not",
    "dots3_note": "its config wants a vision and an audio tower that fit each other",
    "gemma3n": "its vision tower is timm's, which is not installed",
    "gemma4_assistant": "an assistant that runs on the states of another model; its config class has no defaults that hold together",
    "gemma4_unified_assistant": "an assistant that runs on the states of another model",
    "musicgen": "a generator of audio codes behind a text encoder; its config is not that of a causal LM",
    "musicgen_melody": "a generator of audio codes behind a text encoder; its config is not that of a causal LM",
}


def names() -> list[str]:
    """Model types of the causal LMs that transformers maps a config to and that can be built."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - CANNOT.keys())


PAIRS_CANNOT = {  # and why
    "encoder-decoder": "a pair of any two models; its config is not that of one",
}
HEARING = "reads or says sounds beside texts, which nothing here gives it"
PAIRS_CANNOT |= dict.fromkeys(
    (
        *("audioflamingo3", "glmasr", "granite_speech", "granite_speech_plus", "moss_transcribe_diarize"),
        *("musicflamingo", "nemo_speechlm", "qwen2_audio", "qwen3_asr", "seamless_m4t", "seamless_m4t_v2"),
        *("vibevoice_asr", "voxtral", "voxtral_realtime"),
    ),
    HEARING,
)


def pair_names() -> list[str]:
    """Model types of the encoder–decoders of text that transformers maps a config to and that can be built."""
    return sorted(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.keys() - PAIRS_CANNOT.keys())


def config_of(kind: type[Any], more: dict[str, Any]) -> Any:
    """A tiny config of the class `kind`; `more` has what its class wants beyond the sizes, and of its nested configs by their names."""
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    values = {name: SIZES[name] for name in fields.keys() & SIZES.keys()}
    try:
        plain = kind()
    except Exception:  # a class without defaults that hold together
        plain = None
    for name in kind.sub_configs:
        found = getattr(plain, name, None)
        if found is not None and dataclasses.is_dataclass(found):
            values[name] = config_of(type(found), more.pop(name, {}))
    if "kv_lora_rank" in fields:  # latent attention has as many keys as queries
        values["num_key_value_heads"] = HEADS
    patterns = {name: list(dict.fromkeys(getattr(plain, name, None) or ())) for name in PATTERNS if name in fields}
    if any(len(kinds) > 1 for kinds in patterns.values()):
        values |= {name: DEEP for name in DEPTHS if name in fields}
    for name, kinds in patterns.items():
        if kinds:
            depth = next((values[name] for name in DEPTHS if name in values), len(kinds))
            values[name] = [kinds[i % len(kinds)] for i in range(depth)]
    return kind(**values | more)


def build(name: str, seed: int = 0, pair: bool = False, **changes: Any) -> Any:
    """A random model of the model type `name`, float32, in eval mode; logits of a few tokens have a standard deviation near 1.

    `changes` are fields of its config with other values; a `pair` is an encoder–decoder.
    """
    more: dict[str, Any] = {"decoder_start_token_id": BOS} if pair else copy.deepcopy(OF_KIND.get(name, {}))
    config = config_of(CONFIG_MAPPING[name], more | changes)
    torch.manual_seed(seed)
    kind = AutoModelForSeq2SeqLM if pair else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32).eval()
    _spread(model, pair)
    return model


def save(name: str, folder: Path, pair: bool = False) -> Path:
    """A folder with the model and the tokenizer of the tiny model, whose 98 tokens are fewer than the model's."""
    save_tiny(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    build(name, pair=pair).save_pretrained(folder)
    return folder


@torch.no_grad()
def _spread(model: Any, pair: bool = False) -> None:
    """Biases and norms that matter, and logits with a standard deviation near 1."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.05 * torch.randn_like(parameter))
    ids = torch.randint(4, VOCABULARY, (2, 12))
    for _ in range(2):
        said = {"decoder_input_ids": ids} if pair else {}
        spread = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **said).logits.std()
        model.get_output_embeddings().weight.div_(spread.clamp(0.05, 20.0))
