//! What parameters a model has, in open_clip's order, and how open_clip initialises them.

use super::resnet::convolutions;
use super::{ClipConfig, Spec};

/// A parameter before it exists: open_clip's name, our shape, how it begins.
pub(super) type Planned = (String, Vec<usize>, Spec);

/// One residual attention block (open_clip's `ResidualAttentionBlock`).
fn block(prefix: &str, width: usize, mlp: usize, std: &BlockStd, out: &mut Vec<Planned>) {
    let mut add = |name: &str, shape: &[usize], spec| {
        out.push((format!("{prefix}{name}"), shape.to_vec(), spec));
    };
    let (zero, one) = (Spec::Constant(0.0), Spec::Constant(1.0));
    add("ln_1.weight", &[width], one);
    add("ln_1.bias", &[width], zero);
    add("attn.in_proj_weight", &[3 * width, width], std.in_proj);
    add("attn.in_proj_bias", &[3 * width], zero);
    add("attn.out_proj.weight", &[width, width], std.out_proj);
    add("attn.out_proj.bias", &[width], zero);
    add("ln_2.weight", &[width], one);
    add("ln_2.bias", &[width], zero);
    add("mlp.c_fc.weight", &[mlp, width], std.c_fc.0);
    add("mlp.c_fc.bias", &[mlp], std.c_fc.1);
    add("mlp.c_proj.weight", &[width, mlp], std.c_proj.0);
    add("mlp.c_proj.bias", &[width], std.c_proj.1);
}

struct BlockStd {
    in_proj: Spec,
    out_proj: Spec,
    /// Weight and bias.
    c_fc: (Spec, Spec),
    c_proj: (Spec, Spec),
}

/// torch's default for a linear layer: weight and bias uniform in ±1/√fan_in.
fn torch_linear(fan_in: usize) -> (Spec, Spec) {
    let bound = Spec::Uniform((fan_in as f32).sqrt().recip());
    (bound, bound)
}

impl BlockStd {
    /// The vision tower keeps torch's defaults: `in_proj` Xavier-uniform.
    fn vision(width: usize, mlp: usize) -> Self {
        Self {
            in_proj: Spec::Uniform((6.0 / (4 * width) as f32).sqrt()),
            out_proj: torch_linear(width).0,
            c_fc: torch_linear(width),
            c_proj: torch_linear(mlp),
        }
    }

    /// The text tower is scaled by depth (`TextTransformer.init_parameters`); biases of the MLP
    /// keep torch's default.
    fn text(width: usize, mlp: usize, layers: usize) -> Self {
        let attn = (width as f32).sqrt().recip();
        let proj = attn * ((2 * layers) as f32).sqrt().recip();
        let fc = ((2 * width) as f32).sqrt().recip();
        Self {
            in_proj: Spec::Normal(attn),
            out_proj: Spec::Normal(proj),
            c_fc: (Spec::Normal(fc), torch_linear(width).1),
            c_proj: (Spec::Normal(proj), torch_linear(mlp).1),
        }
    }
}

/// All parameters of a CLIP model. Shapes are ours: `visual.conv1.weight` is
/// `[width, patch·patch·3]` in (y, x, channel) order where open_clip stores `[width, 3, p, p]`,
/// and `logit_scale` is `[1]` where open_clip has a scalar.
pub(super) fn plan(config: &ClipConfig) -> Vec<Planned> {
    let (v, t) = (&config.vision_cfg, &config.text_cfg);
    let mut out = Vec::new();
    let add = |out: &mut Vec<Planned>, name: &str, shape: &[usize], spec| {
        out.push((name.to_owned(), shape.to_vec(), spec));
    };
    let (zero, one) = (Spec::Constant(0.0), Spec::Constant(1.0));
    add(
        &mut out,
        "positional_embedding",
        &[t.context_length, t.width],
        Spec::Normal(0.01),
    );
    let text_std = (t.width as f32).sqrt().recip();
    add(
        &mut out,
        "text_projection",
        &[t.width, config.embed_dim],
        Spec::Normal(text_std),
    );
    // ln(1/0.07): Radford et al., arXiv 2103.00020, §2.5.
    add(
        &mut out,
        "logit_scale",
        &[1],
        Spec::Constant((1.0f32 / 0.07).ln()),
    );

    if v.is_resnet() {
        resnet(config, &mut out);
    } else {
        vit(config, &mut out);
    }

    let std = BlockStd::text(t.width, t.mlp_width(), t.layers);
    for layer in 0..t.layers {
        let prefix = format!("transformer.resblocks.{layer}.");
        block(&prefix, t.width, t.mlp_width(), &std, &mut out);
    }
    add(
        &mut out,
        "token_embedding.weight",
        &[t.vocab_size, t.width],
        Spec::Normal(0.02),
    );
    add(&mut out, "ln_final.weight", &[t.width], one);
    add(&mut out, "ln_final.bias", &[t.width], zero);
    out
}

/// open_clip's `VisionTransformer`.
fn vit(config: &ClipConfig, out: &mut Vec<Planned>) {
    let v = &config.vision_cfg;
    let add = |out: &mut Vec<Planned>, name: &str, shape: &[usize], spec| {
        out.push((name.to_owned(), shape.to_vec(), spec));
    };
    let (zero, one) = (Spec::Constant(0.0), Spec::Constant(1.0));
    let scale = (v.width as f32).sqrt().recip();
    add(
        out,
        "visual.class_embedding",
        &[v.width],
        Spec::Normal(scale),
    );
    let tokens = 1 + v.grid() * v.grid();
    add(
        out,
        "visual.positional_embedding",
        &[tokens, v.width],
        Spec::Normal(scale),
    );
    add(
        out,
        "visual.proj",
        &[v.width, config.embed_dim],
        Spec::Normal(scale),
    );
    let pixels = v.cell() * v.cell() * 3;
    add(
        out,
        "visual.conv1.weight",
        &[v.width, pixels],
        torch_linear(pixels).0,
    );
    add(out, "visual.ln_pre.weight", &[v.width], one);
    add(out, "visual.ln_pre.bias", &[v.width], zero);
    let std = BlockStd::vision(v.width, v.mlp_width());
    for layer in 0..v.layers.blocks() {
        let prefix = format!("visual.transformer.resblocks.{layer}.");
        block(&prefix, v.width, v.mlp_width(), &std, out);
    }
    add(out, "visual.ln_post.weight", &[v.width], one);
    add(out, "visual.ln_post.bias", &[v.width], zero);
}

/// open_clip's `ModifiedResNet.init_parameters` over torch's defaults: convolutions uniform in
/// ±1/√fan_in, the last BatchNorm of each block at γ = 0, the attention pool's products normal.
fn resnet(config: &ClipConfig, out: &mut Vec<Planned>) {
    let v = &config.vision_cfg;
    let mut add = |name: String, shape: &[usize], spec| out.push((name, shape.to_vec(), spec));
    for conv in convolutions(v) {
        let (filter, outputs) = (conv.filter(), conv.channels.1);
        let spec = torch_linear(filter).0;
        add(format!("{}.weight", conv.name), &[outputs, filter], spec);
        let gamma = Spec::Constant(if conv.zero { 0.0 } else { 1.0 });
        add(format!("{}.weight", conv.norm), &[outputs], gamma);
        add(
            format!("{}.bias", conv.norm),
            &[outputs],
            Spec::Constant(0.0),
        );
    }
    let (width, tokens) = (v.token_width(), 1 + v.grid() * v.grid());
    let normal = Spec::Normal((width as f32).sqrt().recip());
    let pool = |name: &str| format!("visual.attnpool.{name}");
    add(pool("positional_embedding"), &[tokens, width], normal);
    for (name, outputs) in [
        ("k_proj", width),
        ("q_proj", width),
        ("v_proj", width),
        ("c_proj", config.embed_dim),
    ] {
        add(pool(&format!("{name}.weight")), &[outputs, width], normal);
        add(
            pool(&format!("{name}.bias")),
            &[outputs],
            torch_linear(width).1,
        );
    }
}
