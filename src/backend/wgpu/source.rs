//! The shaders' sources, and the few lines of syntax that make one kernel's WGSL of them.
//!
//! A file `shaders/<module>.wgsl` holds kernels and what they use. A line that begins with `#` is ours:
//!
//! | line | meaning |
//! |---|---|
//! | `#include NAME` | the text of `shaders/NAME.wgsl`, once |
//! | `#values N 64 128` | the values that `$N` takes in the names of this file's kernels; `$T` and `$S` take `f32` and `f16` |
//! | `#kernel NAME STRUCT THREADS` | an entry point, whose body follows up to its `#end`: it takes STRUCT of `backend::gpu` as `a` |
//! | `#buffer FIELD TYPE` | within a kernel: the buffer that STRUCT's address FIELD names, bound under that name |
//! | `#if X == V`, `#if X != V`, `#if kernel NAME …`, `#else`, `#end` | lines for some instances only |
//! | `#each X V …` | the lines up to its `#end` once for each V, with it in place of `$X` |
//!
//! `$X` is replaced everywhere in an instance's text; `$L` is the size of a subgroup, or `0` for kernels that make no
//! use of subgroups, `$P` is `yes` on a processor with subgroups of 8, else `no`. A kernel's body knows `block` and `grid` (the workgroup's place in the grid of the launch, and the
//! grid), `thread`, and `a`: the numbers of its struct, and of each address the bytes from the beginning of the buffer that
//! is bound to the address, or `NONE`.
//!
//! In builds with debug assertions, such as tests, `CLIP_DISTILL_SHADERS` names a folder to read in place of `shaders/`: a
//! changed shader needs no build. With `CLIP_DISTILL_SHADER_ORDER=reversed` the invocations of kernels without subgroups
//! are numbered from the last to the first: a software adapter runs them in order, so that of a missing barrier one of
//! the two orders shows nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

// SHADERS: name and text of every `shaders/*.wgsl`.
include!(concat!(env!("OUT_DIR"), "/shader_sources.rs"));

/// What a shader's text is wrong in, or what it lacks.
pub(super) type Result<T> = std::result::Result<T, String>;

/// A kernel of one element type and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub module: &'static str,
    /// Its name, with values in place of variables.
    pub entry: String,
    /// The struct that it takes.
    pub arguments: String,
    /// Invocations of a workgroup: a constant expression.
    pub threads: String,
    /// Fields of the struct that are bound, and the types of what they name.
    pub buffers: Vec<(String, String)>,
    /// Everything before its body: functions and variables of the module and of what it includes.
    pub library: String,
    pub body: String,
    /// The values of its variables.
    pub values: Values,
}

/// Variables and their values.
pub(super) type Values = BTreeMap<char, String>;

/// Name and text of `shaders/<name>.wgsl`, if there is such a file.
fn text(name: &str) -> Result<Option<(&'static str, &'static str)>> {
    let Some((name, text)) = SHADERS.iter().copied().find(|(file, _)| *file == name) else {
        return Ok(None);
    };
    let Some(folder) = variable("CLIP_DISTILL_SHADERS") else {
        return Ok(Some((name, text)));
    };
    let file = Path::new(&folder).join(format!("{name}.wgsl"));
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Some((name, String::leak(text)))),
        Err(e) => Err(format!("CLIP_DISTILL_SHADERS: {}: {e}", file.display())),
    }
}

/// An environment variable of builds with debug assertions.
fn variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name).filter(|_| cfg!(debug_assertions));
    value.filter(|value| !value.is_empty())
}

/// Whether invocations are numbered from the last to the first.
pub(super) fn reversed() -> Result<bool> {
    match variable("CLIP_DISTILL_SHADER_ORDER") {
        None => Ok(false),
        Some(order) if order == "reversed" => Ok(true),
        Some(_) => Err("CLIP_DISTILL_SHADER_ORDER is not `reversed`".into()),
    }
}

/// The names of the modules that hold kernels.
#[cfg(test)]
pub(super) fn modules() -> impl Iterator<Item = &'static str> {
    let holds = |text: &str| text.lines().any(|line| line.starts_with("#kernel "));
    SHADERS
        .iter()
        .filter(move |(_, text)| holds(text))
        .map(|(name, _)| *name)
}

/// The values that a file's variables take.
fn domains(text: &str) -> BTreeMap<char, Vec<String>> {
    let types = || vec!["f32".to_owned(), "f16".to_owned()];
    let mut domains = BTreeMap::from([('T', types()), ('S', types())]);
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("#values ") else {
            continue;
        };
        let mut words = rest.split_whitespace();
        if let Some(variable) = words.next().and_then(|word| word.chars().next()) {
            domains.insert(variable, words.map(str::to_owned).collect());
        }
    }
    domains
}

fn substitute(text: &str, values: &Values) -> String {
    let mut text = text.to_owned();
    for (variable, value) in values {
        text = text.replace(&format!("${variable}"), value);
    }
    text
}

/// The variables in a pattern, in order.
fn variables(pattern: &str) -> Vec<char> {
    pattern
        .split('$')
        .skip(1)
        .filter_map(|rest| rest.chars().next())
        .collect()
}

/// All choices of values for a kernel's name.
fn choices(pattern: &str, domains: &BTreeMap<char, Vec<String>>) -> Vec<Values> {
    let mut all = vec![Values::new()];
    for variable in variables(pattern) {
        let domain = domains.get(&variable).cloned().unwrap_or_default();
        let extend = |values: &Values| {
            let values = values.clone();
            domain.clone().into_iter().map(move |value| {
                let mut values = values.clone();
                values.insert(variable, value);
                values
            })
        };
        all = all.iter().flat_map(extend).collect();
    }
    all
}

/// The kernels of a module, each in all its instances.
#[cfg(test)]
pub(super) fn entries(module: &str) -> Vec<String> {
    let Some((_, text)) = text(module).expect("the shader's file") else {
        return Vec::new();
    };
    let domains = domains(text);
    let patterns = text
        .lines()
        .filter_map(|line| line.strip_prefix("#kernel "));
    let patterns = patterns.filter_map(|rest| rest.split_whitespace().next());
    patterns
        .flat_map(|p| choices(p, &domains).into_iter().map(|v| substitute(p, &v)))
        .collect()
}

/// What kernels know of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lanes {
    /// Invocations of a subgroup, or 0 where kernels make no use of them.
    pub size: u32,
    /// Whether it runs on a processor.
    pub on_processor: bool,
}

impl Lanes {
    /// Whether a subgroup is one vector register of a processor.
    pub fn in_a_register(self) -> bool {
        self.on_processor && self.size == 8
    }
}

/// A kernel's instance for an adapter; `None` if the module has no such kernel.
pub(super) fn instance(module: &str, entry: &str, lanes: Lanes) -> Result<Option<Instance>> {
    let Some((module, text)) = text(module)? else {
        return Ok(None);
    };
    let domains = domains(text);
    let mut found = None;
    for line in text.lines() {
        let Some(pattern) = line
            .strip_prefix("#kernel ")
            .and_then(|r| r.split_whitespace().next())
        else {
            continue;
        };
        let values = choices(pattern, &domains).into_iter();
        if let Some(values) = values.into_iter().find(|v| substitute(pattern, v) == entry) {
            found = Some((pattern, values));
        }
    }
    let Some((pattern, mut values)) = found else {
        return Ok(None);
    };
    values.entry('T').or_insert_with(|| "f32".to_owned());
    values.insert('L', lanes.size.to_string());
    let in_a_register = if lanes.in_a_register() { "yes" } else { "no" };
    values.insert('P', in_a_register.to_owned());
    let mut reader = Reader {
        pattern,
        values: &values,
        included: vec![module],
        inside: false,
        instance: Instance {
            module,
            entry: entry.to_owned(),
            arguments: String::new(),
            threads: String::new(),
            buffers: Vec::new(),
            library: String::new(),
            body: String::new(),
            values: values.clone(),
        },
    };
    reader.read(
        module,
        text.lines().map(str::to_owned).enumerate().collect(),
    )?;
    let mut instance = reader.instance;
    instance.library = substitute(&instance.library, &values);
    instance.body = substitute(&instance.body, &values);
    instance.threads = substitute(&instance.threads, &values);
    for (_, of) in &mut instance.buffers {
        *of = substitute(of, &values);
    }
    Ok(Some(instance))
}

/// Where a line stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// In a branch that is taken or not.
    If(bool),
    /// In the wanted kernel, or in another.
    Kernel(bool),
}

struct Reader<'a> {
    pattern: &'a str,
    values: &'a Values,
    included: Vec<&'static str>,
    /// Whether what is read stands in the wanted kernel.
    inside: bool,
    instance: Instance,
}

impl Reader<'_> {
    fn condition(&self, words: &[&str]) -> Result<bool> {
        let value = |name: &str| match name.chars().next().and_then(|c| self.values.get(&c)) {
            Some(value) => Ok(value.clone()),
            None => Err(format!("{name} has no value in {}", self.instance.entry)),
        };
        match words {
            ["kernel", names @ ..] => Ok(names
                .iter()
                .any(|n| substitute(n, self.values) == self.instance.entry)),
            [name, "==", other] => Ok(value(name)? == *other),
            [name, "!=", other] => Ok(value(name)? != *other),
            _ => Err(format!("#if {}", words.join(" "))),
        }
    }

    fn read(&mut self, file: &str, lines: Vec<(usize, String)>) -> Result<()> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut lines = lines.into_iter();
        while let Some((number, line)) = lines.next() {
            let wrong =
                |what: &str| format!("shaders/{file}.wgsl, line {}: {what}: {line}", number + 1);
            let all = |blocks: &[Block]| {
                blocks
                    .iter()
                    .all(|b| matches!(b, Block::If(true) | Block::Kernel(true)))
            };
            let live = all(&blocks);
            let inside = self.inside || blocks.contains(&Block::Kernel(true));
            let Some(directive) = line.strip_prefix('#') else {
                if live {
                    let to = match inside {
                        true => &mut self.instance.body,
                        false => &mut self.instance.library,
                    };
                    *to += &line;
                    *to += "\n";
                }
                continue;
            };
            let words: Vec<&str> = directive.split_whitespace().collect();
            match words.as_slice() {
                ["values", ..] => {}
                ["if", condition @ ..] => {
                    let taken = live && self.condition(condition).map_err(|e| wrong(&e))?;
                    blocks.push(Block::If(taken));
                }
                ["else"] => match blocks.pop() {
                    Some(Block::If(taken)) => blocks.push(Block::If(all(&blocks) && !taken)),
                    _ => return Err(wrong("no #if before it")),
                },
                ["end"] => {
                    blocks.pop().ok_or_else(|| wrong("nothing to end"))?;
                }
                ["each", variable, values @ ..] => {
                    let mut block = Vec::new();
                    let mut depth = 1;
                    for (number, line) in lines.by_ref() {
                        let word = line.split_whitespace().next().unwrap_or_default();
                        match word {
                            "#if" | "#kernel" | "#each" => depth += 1,
                            "#end" => depth -= 1,
                            _ => {}
                        }
                        if depth == 0 {
                            break;
                        }
                        block.push((number, line));
                    }
                    if depth > 0 {
                        return Err(wrong("without its #end"));
                    }
                    let before = std::mem::replace(&mut self.inside, inside);
                    for value in values.iter().filter(|_| live) {
                        let name = format!("${variable}");
                        let with = |(n, line): &(usize, String)| (*n, line.replace(&name, value));
                        self.read(file, block.iter().map(with).collect())?;
                    }
                    self.inside = before;
                }
                ["include", name] => {
                    let Some((name, text)) = self::text(name)? else {
                        return Err(wrong("no such file"));
                    };
                    if live && !self.included.contains(&name) {
                        self.included.push(name);
                        self.read(name, text.lines().map(str::to_owned).enumerate().collect())?;
                    }
                }
                ["kernel", name, arguments, threads] => {
                    let wanted = *name == self.pattern;
                    if wanted {
                        self.instance.arguments = (*arguments).to_owned();
                        self.instance.threads = (*threads).to_owned();
                    }
                    blocks.push(Block::Kernel(wanted));
                }
                ["buffer", field, of @ ..] if !of.is_empty() => {
                    if live && inside {
                        self.instance
                            .buffers
                            .push(((*field).to_owned(), of.join(" ")));
                    }
                }
                _ => return Err(wrong("unknown directive")),
            }
        }
        match blocks.is_empty() {
            true => Ok(()),
            false => Err(format!("shaders/{file}.wgsl: an #end is missing")),
        }
    }
}
