"""Small values for the arguments of diffusers' denoising models."""

WIDTH = 16
"""Of every text embedding."""

HEADS = {"num_layers": 1, "num_attention_heads": 2}
PACKED = {**HEADS, "in_channels": 16, "num_single_layers": 1, "attention_head_dim": 16, "joint_attention_dim": WIDTH}
AXES = {"axes_dims_rope": (4, 4, 8)}
CROSS = {**HEADS, "attention_head_dim": 8, "in_channels": 4}
UNET = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "sample_size": 8, "in_channels": 4, "out_channels": 4,
    "norm_num_groups": 2, "attention_head_dim": 4, "cross_attention_dim": WIDTH,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
UNET_XL = {
    **UNET, "cross_attention_dim": 2 * WIDTH, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + WIDTH, "transformer_layers_per_block": (1, 1),
    "use_linear_projection": True,
}  # fmt: skip
SD3 = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 2 * WIDTH, "caption_projection_dim": 16,
    "pooled_projection_dim": 2 * WIDTH, "pos_embed_max_size": 16,
}  # fmt: skip
WAN = {
    **HEADS, "patch_size": (1, 2, 2), "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": WIDTH,
    "freq_dim": 16, "ffn_dim": 16, "cross_attn_norm": True, "rope_max_seq_len": 32,
}  # fmt: skip
COSMOS = {
    **HEADS, "in_channels": 4, "out_channels": 4, "attention_head_dim": 16, "mlp_ratio": 2, "text_embed_dim": WIDTH,
    "adaln_lora_dim": 4, "max_size": (4, 32, 32), "patch_size": (1, 2, 2), "extra_pos_embed_type": None,
}  # fmt: skip

DENOISERS = {
    "UNet2DConditionModel": UNET,
    "UNet3DConditionModel": {
        **UNET, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "up_block_types": ("UpBlock3D",
        "CrossAttnUpBlock3D"),
        "block_out_channels": (4, 8), "norm_num_groups": 2,
    },
    "Kandinsky3UNet": {
        "block_out_channels": (32, 64), "layers_per_block": 1, "time_embedding_dim": 32, "groups": 4,
        "encoder_hid_dim": WIDTH,
        "attention_head_dim": 4, "cross_attention_dim": 32,
    },
    "SD3Transformer2DModel": SD3,
    "FluxTransformer2DModel": {**PACKED, **AXES, "pooled_projection_dim": WIDTH, "guidance_embeds": True},
    "WanTransformer3DModel": WAN,
    "SkyReelsV2Transformer3DModel": WAN,
    "WanVACETransformer3DModel": {**WAN, "vace_layers": [0], "vace_in_channels": 96},
    "QwenImageTransformer2DModel": {
        **HEADS, **AXES, "in_channels": 16, "out_channels": 4, "attention_head_dim": 16, "joint_attention_dim": WIDTH,
    },
    "ZImageTransformer2DModel": {
        "in_channels": 4, "dim": 32, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
        "cap_feat_dim": WIDTH,
        "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32],
    },
    "Flux2Transformer2DModel": {
        **PACKED, "joint_attention_dim": 3 * WIDTH, "axes_dims_rope": (4, 4, 4, 4), "timestep_guidance_channels": 16,
    },
    "ChromaTransformer2DModel": {
        **PACKED, **AXES, "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1,
    },
    "SanaTransformer2DModel": {
        **CROSS, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16,
        "caption_channels": WIDTH, "sample_size": 8,
    },
    "SanaVideoTransformer3DModel": {
        **CROSS, "attention_head_dim": 12, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 12,
        "cross_attention_dim": 24, "caption_channels": WIDTH, "sample_size": 8, "rope_max_seq_len": 32,
    },
    "Lumina2Transformer2DModel": {
        "sample_size": 8, "in_channels": 4, "hidden_size": 32, "num_layers": 1, "num_refiner_layers": 1,
        "num_attention_heads": 2,
        "num_kv_heads": 1, "multiple_of": 16, "axes_dim_rope": (4, 4, 8), "axes_lens": (300, 32, 32), "cap_feat_dim": WIDTH,
    },
    "LuminaNextDiT2DModel": {
        "num_kv_heads": 2, "sample_size": 8, "in_channels": 4, "hidden_size": 32, "num_layers": 1,
        "num_attention_heads": 2, "multiple_of": 16,
        "cross_attention_dim": WIDTH, "learn_sigma": True,
    },
    "PixArtTransformer2DModel": {
        **CROSS, "out_channels": 8, "cross_attention_dim": 16, "sample_size": 8, "caption_channels": WIDTH,
        "norm_num_groups": 2, "num_layers": 2, "use_additional_conditions": False,
    },
    "HunyuanVideoTransformer3DModel": {
        **HEADS, "in_channels": 4, "out_channels": 4, "attention_head_dim": 16, "num_single_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": WIDTH, "pooled_projection_dim": WIDTH, "rope_axes_dim": (4, 4, 8),
    },
    "HunyuanImageTransformer2DModel": {
        **HEADS, "in_channels": 4, "out_channels": 4, "attention_head_dim": 16, "num_single_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": WIDTH, "text_embed_2_dim": WIDTH, "rope_axes_dim": (8, 8),
    },
    "HunyuanVideo15Transformer3DModel": {
        **HEADS, "in_channels": 9, "out_channels": 4, "attention_head_dim": 16, "num_refiner_layers": 1,
        "text_embed_dim": WIDTH,
        "text_embed_2_dim": WIDTH, "image_embed_dim": 12, "rope_axes_dim": (4, 4, 8), "target_size": 64, "task_type": "t2v",
    },
    "LTXVideoTransformer3DModel": {
        **HEADS, "in_channels": 4, "out_channels": 4, "attention_head_dim": 8, "cross_attention_dim": 16,
        "caption_channels": WIDTH,
    },
    "CogVideoXTransformer3DModel": {
        **CROSS, "out_channels": 4, "time_embed_dim": 4, "text_embed_dim": WIDTH, "sample_width": 8, "sample_height": 8,
        "sample_frames": 9, "max_text_seq_length": 16, "use_rotary_positional_embeddings": True, "attention_head_dim": 16,
    },
    "AuraFlowTransformer2DModel": {
        "sample_size": 8, "in_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 1, "attention_head_dim": 8,
        "num_attention_heads": 2, "joint_attention_dim": WIDTH, "caption_projection_dim": 16, "pos_embed_max_size": 64,
    },
    "HiDreamImageTransformer2DModel": {
        "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2, "caption_channels": (WIDTH, WIDTH), "text_emb_dim": 2 * WIDTH, "axes_dims_rope": (8, 4, 4),
        "max_resolution": (8, 8), "llama_layers": (0, 1), "force_inference_output": True,
    },
    "Krea2Transformer2DModel": {
        "in_channels": 16, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 32, "timestep_embed_dim": 16, "text_hidden_dim": WIDTH, "num_text_layers": 2,
        "text_num_attention_heads": 2, "text_num_key_value_heads": 1, "text_intermediate_size": 16,
        "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1, "axes_dims_rope": (8, 4, 4),
    },
    "HunyuanDiT2DModel": {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "patch_size": 2, "sample_size": 8,
        "hidden_size": 32,
        "num_layers": 2, "cross_attention_dim": WIDTH, "cross_attention_dim_t5": WIDTH, "pooled_projection_dim": 16,
    },
    "CogView3PlusTransformer2DModel": {
        **CROSS, "out_channels": 4, "text_embed_dim": WIDTH, "time_embed_dim": 16, "condition_dim": 8, "sample_size": 8,
        "pos_embed_max_size": 16,
    },
    "CogView4Transformer2DModel": {
        **CROSS, "out_channels": 4, "text_embed_dim": WIDTH, "time_embed_dim": 16, "condition_dim": 8, "sample_size": 8,
        "attention_head_dim": 16, "rope_axes_dim": (8, 8),
    },
    "LatteTransformer3DModel": {
        **CROSS, "out_channels": 8, "cross_attention_dim": 16, "sample_size": 8, "patch_size": 2, "caption_channels": WIDTH,
        "norm_type": "ada_norm_single", "num_embeds_ada_norm": 1000, "video_length": 2, "attention_bias": True,
        "norm_elementwise_affine": False, "activation_fn": "gelu-approximate",
    },
    "AllegroTransformer3DModel": {
        **CROSS, "out_channels": 4, "cross_attention_dim": 24, "attention_head_dim": 12, "sample_height": 8,
        "sample_width": 8,
        "sample_frames": 2, "caption_channels": WIDTH,
    },
    "MochiTransformer3DModel": {
        **HEADS, "attention_head_dim": 8, "pooled_projection_dim": 16, "in_channels": 4, "text_embed_dim": WIDTH,
        "time_embed_dim": 4, "max_sequence_length": 16,
    },
    "BriaTransformer2DModel": {**PACKED, **AXES, "in_channels": 16},
    "OvisImageTransformer2DModel": {**PACKED, **AXES, "out_channels": 16},
    "ErnieImageTransformer2DModel": {
        "hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 32, "in_channels": 16,
        "out_channels": 16,
        "text_in_dim": WIDTH, "rope_axes_dim": (8, 4, 4),
    },
    "LongCatImageTransformer2DModel": {**PACKED, **AXES, "pooled_projection_dim": WIDTH},
    "Kandinsky5Transformer3DModel": {
        "in_visual_dim": 4, "in_text_dim": WIDTH, "in_text_dim2": WIDTH, "time_dim": 16, "out_visual_dim": 4, "model_dim": 32,
        "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": (8, 4, 4),
    },
    "PRXTransformer2DModel": {
        "in_channels": 4, "context_in_dim": WIDTH, "hidden_size": 16, "num_heads": 2, "depth": 1, "axes_dim": [4, 4],
    },
    "QwenImage21Transformer2DModel": {
        **HEADS, **AXES, "in_channels": 4, "out_channels": 4, "attention_head_dim": 16, "context_in_dim": WIDTH,
        "mlp_ratio": 2,
    },
    "MotifVideoTransformer3DModel": {
        **HEADS, "in_channels": 9, "out_channels": 4, "attention_head_dim": 16, "num_single_layers": 1,
        "text_embed_dim": WIDTH,
        "rope_axes_dim": (4, 4, 8),
    },
    "CosmosTransformer3DModel": COSMOS,
    "EasyAnimateTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "patch_size": 2,
        "sample_width": 8, "sample_height": 8, "num_layers": 1, "mmdit_layers": 1, "time_embed_dim": 4,
        "text_embed_dim": WIDTH,
    },
}  # fmt: skip
"""Small values for the arguments of every denoising model that is known here."""
