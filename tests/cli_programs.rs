//! The command lines of the programs: which of them is the demonstration, and what is said of wrong ones.

use clip_distill::programs::command_line::{Request, parse};
use clip_distill::settings::config::Config;
use std::ffi::OsString;

#[path = "common/program.rs"]
mod program;

use program::{Folder, expect, refuses};

/// The demonstration that the arguments in `args` ask for.
fn demonstration(args: &str) -> Config {
    let args = args.split_whitespace().map(OsString::from);
    match parse([OsString::from("train")].into_iter().chain(args)).unwrap() {
        Request::Demo(config) => *config,
        other => panic!("no demonstration: {other:?}"),
    }
}

#[test]
fn without_data_it_is_the_demonstration_wherever_it_runs() {
    let plain = demonstration("").to_toml().unwrap();
    // A flag, and the line of the configuration that follows.
    let flags = [
        ("--backend cuda", "backend = \"cuda\""),
        ("--device 1", "device = 1"),
        ("--precision amp_bf16", "precision = \"amp_bf16\""),
        ("--threads 3", "threads = 3"),
        ("--seed 7", "seed = 7"),
        ("--logs runs", "logs = \"runs\""),
        ("--name here", "name = \"here\""),
    ];
    for subset in 0..1usize << flags.len() {
        let chosen = flags
            .iter()
            .enumerate()
            .filter(|(i, _)| subset >> i & 1 == 1);
        let (mut args, mut want) = (String::new(), plain.parse::<toml::Table>().unwrap());
        for (_, (flag, line)) in chosen {
            args += &format!("{flag} ");
            want.extend(line.parse::<toml::Table>().unwrap());
        }
        let got = demonstration(&args).to_toml().unwrap();
        assert_eq!(got.parse::<toml::Table>().unwrap(), want, "{args}");
    }
}

#[test]
fn a_file_of_such_keys_leaves_it_the_demonstration() {
    let folder = Folder::new(&[("where.toml", "backend = \"cpu\"\nseed = 3\n")]);
    let file = folder.path("where.toml").display().to_string();
    let config = demonstration(&format!("--config {file} --seed 4 --threads 1"));
    assert_eq!((config.seed, config.teacher.as_deref()), (4, Some("demo")));
}

#[test]
fn a_folder_of_an_earlier_demonstration_is_kept() {
    let folder = Folder::new(&[]);
    std::fs::create_dir_all(folder.path("runs/here-intra-kd")).unwrap();
    refuses(
        folder.train("--logs runs --name here --seed 3"),
        &["runs/here-intra-kd exists already", "--name"],
    );
}

#[test]
fn what_asks_for_more_needs_data() {
    let folder = Folder::new(&[("rate.toml", "lr = 0.1\nseed = 1\n")]);
    for (args, words) in [
        ("--model ViT-T-16", vec!["--train-data", "--model"]),
        (
            "--backend cpu --lr 1 --wd 0",
            vec!["--train-data", "--lr, --wd"],
        ),
        ("--config rate.toml", vec!["--train-data", "--lr"]),
        ("--seed 1 --dry-run", vec!["--train-data", "--dry-run"]),
        ("--resume latest --name x", vec!["--train-data", "--resume"]),
    ] {
        refuses(folder.train(args), &words);
    }
    // Wrong values are wrong in the demonstration, too.
    refuses(folder.train("--threads 0"), &["--threads"]);
    refuses(folder.train("--name a/b"), &["--name"]);
    refuses(folder.train("--seed=-1"), &["--seed"]);
    refuses(
        folder.train("--backend cpu --precision amp_fp16"),
        &["--precision amp_fp16", "amp_bf16"],
    );
    refuses(
        folder.train("--backend cpu --device 1"),
        &["--device 1", "--backend is cpu"],
    );
    assert!(!folder.path("logs").exists());
}

#[test]
fn a_demonstration_on_a_gpu_says_what_is_missing_for_one() {
    let folder = Folder::new(&[]);
    let mut run = folder.train("--backend cuda --precision amp_bf16 --device 3 --seed 1");
    // A driver that is there is asked to show no GPU.
    run.env("CUDA_VISIBLE_DEVICES", "")
        .env_remove("CLIP_DISTILL_CUDA_DEVICE")
        .env_remove("CLIP_DISTILL_CUDA_PATH");
    refuses(run, &["--backend cuda", "NVIDIA"]);
    assert!(!folder.path("logs").exists());
}

/// What the program `name` prints on stdout.
fn said(name: &str, args: &str) -> String {
    let program = match name {
        "train" => env!("CARGO_BIN_EXE_train"),
        "eval" => env!("CARGO_BIN_EXE_eval"),
        _ => env!("CARGO_BIN_EXE_embed"),
    };
    let folder = Folder::new(&[]);
    String::from_utf8(expect(folder.run(program, args), 0).stdout).unwrap()
}

#[test]
fn the_short_help_is_a_screen_and_the_long_one_has_everything() {
    for name in ["train", "eval", "embed"] {
        let (short, long) = (said(name, "-h"), said(name, "--help"));
        assert!(short.lines().count() <= 40, "{name}:\n{short}");
        for line in short.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
        for help in [&short, &long] {
            for word in [
                "--backend",
                "cuda",
                "wgpu",
                "--precision",
                "amp_bf16",
                "Usage: ",
            ] {
                assert!(help.contains(word), "{name}: {word}");
            }
        }
        let flags = short.lines().filter_map(|line| {
            let flag = line.strip_prefix("  --")?;
            flag.split(' ').next()
        });
        for flag in flags {
            assert!(long.contains(&format!("--{flag}")), "{name}: {flag}");
        }
    }
}

#[test]
fn devices_are_listed_or_said_to_be_missing() {
    let folder = Folder::new(&[]);
    let list = |device: &str| {
        let mut run = folder.train("--list-devices");
        run.env("CUDA_VISIBLE_DEVICES", "")
            .env_remove("CLIP_DISTILL_CUDA_PATH")
            .env("CLIP_DISTILL_CUDA_DEVICE", device);
        String::from_utf8(expect(run, 0).stdout).unwrap()
    };
    let lines = list("");
    let mut lines = lines.lines();
    let cpu = lines.next().unwrap();
    for word in ["cpu 0: ", " threads", "GiB", "fp32", "amp_bf16"] {
        assert!(cpu.contains(word), "no {word} in: {cpu}");
    }
    let cuda = lines.next().unwrap();
    assert!(
        cuda.starts_with("cuda: none: ") && cuda.contains("NVIDIA"),
        "{cuda}"
    );
    let wgpu = lines.next().unwrap();
    let one_of = ["wgpu 0: ", "wgpu: none: no adapter: "];
    assert!(one_of.iter().any(|start| wgpu.starts_with(start)), "{wgpu}");
    assert!(lines.all(|line| line.starts_with("wgpu ")));
}
