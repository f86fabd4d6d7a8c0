//! `cargo xtask test`: every layer of proof, and one table.

mod bare;
mod constant;
mod freebsd;
mod linux;
mod loom;
mod miri;
mod report;
mod table;
mod unit;

use crate::linux::{VERSIONS, Version};
use crate::process::seconds;
use crate::workspace::Workspace;
use crate::{Command, Outcome, Verdict, usage};
use std::time::{Duration, Instant};

pub const COMMAND: Command = Command {
    name: "test",
    summary: "run the layers of proof and print one table",
    options: "\
--layer NAME   run only this layer; may be repeated:
  const   format, lints, builds without an operating system, the unsafe fence
  unit    the tests and the doc tests of every crate
  miri    the proofs under Miri, with strict provenance
  loom    the models in every interleaving; each twin must fail
  bare    guests on the bare port, on every emulated machine
  linux   the module in stock Debian kernels
  freebsd the FreeBSD module as its loader sees it, and on a test host
--kernel VERSION
               take only this kernel, 6.1 or 6.12, in the layer linux; may be repeated
--machine TEXT take only the machines with this in their line, in the layer linux",
    run,
};

/// With this variable set, a model's twin does not catch its failure: its process fails.
pub const TWIN_RAW: &str = "WATERBEAR_TWIN_RAW";

/// One layer.
struct Layer {
    name: &'static str,
    run: fn(&Workspace, &Options, &mut Tally) -> Outcome,
}

const LAYERS: &[Layer] = &[
    Layer {
        name: "const",
        run: constant::run,
    },
    Layer {
        name: "unit",
        run: unit::run,
    },
    Layer {
        name: "miri",
        run: miri::run,
    },
    Layer {
        name: "loom",
        run: loom::run,
    },
    Layer {
        name: "bare",
        run: bare::run,
    },
    Layer {
        name: "linux",
        run: linux::run,
    },
    Layer {
        name: "freebsd",
        run: freebsd::run,
    },
];

/// What the layers may be told.
struct Options {
    /// The kernels of the layer `linux`.
    kernels: Vec<Version>,
    /// What the names of its machines contain.
    machine: String,
}

/// Something that was not run, and why.
#[derive(PartialEq, Eq, Debug)]
struct Skipped {
    name: String,
    reason: String,
}

/// What a layer has counted.
#[derive(Default)]
struct Tally {
    passed: u64,
    /// What failed, in a few words each.
    failed: Vec<String>,
    /// What was not run.
    skipped: Vec<Skipped>,
    /// What else the table should say.
    notes: Vec<String>,
    time: Duration,
}

fn run(arguments: lexopt::Parser) -> Outcome<Verdict> {
    let (layers, options) = chosen(arguments)?;
    let workspace = Workspace::find()?;
    let mut rows = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        println!("[{}/{}] {}", number + 1, layers.len(), layer.name);
        let start = Instant::now();
        let mut tally = Tally::default();
        if let Err(sentence) = (layer.run)(&workspace, &options, &mut tally) {
            println!("  FAILED {sentence}");
            tally.failed.push(sentence);
        }
        tally.time = start.elapsed();
        println!("  {} took {}\n", layer.name, seconds(tally.time));
        rows.push((layer.name, tally));
    }
    print!("{}", table::text(&rows));
    let good = rows.iter().all(|(_, tally)| tally.failed.is_empty());
    Ok(if good { Verdict::Good } else { Verdict::Bad })
}

/// The layers named by the options, in their own order; all of them if none is named. The same for
/// kernels.
fn chosen(mut arguments: lexopt::Parser) -> Outcome<(Vec<&'static Layer>, Options)> {
    use lexopt::prelude::*;
    let mut names: Vec<String> = Vec::new();
    let mut kernels = Vec::new();
    let mut machine = String::new();
    while let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        match argument {
            Long("layer") => {
                let name = arguments.value().and_then(|value| value.string());
                names.push(name.map_err(|error| usage(&error))?);
            }
            Long("machine") => {
                let name = arguments.value().and_then(|value| value.string());
                machine = name.map_err(|error| usage(&error))?;
            }
            Long("kernel") => {
                let name = arguments.value().and_then(|value| value.string());
                kernels.push(Version::named(&name.map_err(|error| usage(&error))?)?);
            }
            other => return Err(usage(&other.unexpected())),
        }
    }
    if let Some(name) = names
        .iter()
        .find(|name| !LAYERS.iter().any(|layer| layer.name == **name))
    {
        let known: Vec<_> = LAYERS.iter().map(|layer| layer.name).collect();
        return Err(format!(
            "there is no layer {name:?}. Layers are {}.",
            known.join(", ")
        ));
    }
    let wanted = |layer: &&Layer| names.is_empty() || names.iter().any(|name| name == layer.name);
    if kernels.is_empty() {
        kernels.extend(VERSIONS);
    }
    Ok((
        LAYERS.iter().filter(wanted).collect(),
        Options { kernels, machine },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str]) -> Outcome<Vec<&'static str>> {
        let (layers, _) = chosen(lexopt::Parser::from_args(arguments))?;
        Ok(layers.into_iter().map(|layer| layer.name).collect())
    }

    #[test]
    fn without_options_all_layers_run() {
        assert_eq!(
            names(&[]).unwrap(),
            ["const", "unit", "miri", "loom", "bare", "linux", "freebsd"]
        );
    }

    #[test]
    fn named_layers_run_in_their_own_order() {
        assert_eq!(
            names(&["--layer", "loom", "--layer=const"]).unwrap(),
            ["const", "loom"]
        );
    }

    #[test]
    fn without_options_all_kernels_are_tried() {
        let kernels = |arguments: &[&str]| {
            let (_, options) = chosen(lexopt::Parser::from_args(arguments))?;
            Ok::<_, String>(options.kernels)
        };
        assert_eq!(kernels(&[]).unwrap(), VERSIONS);
        let one = kernels(&["--kernel", VERSIONS[1].name]).unwrap();
        assert_eq!(one, [VERSIONS[1]]);
        assert!(kernels(&["--kernel", "2.4"]).is_err());
    }

    #[test]
    fn an_unknown_layer_is_refused_with_the_known_ones() {
        let error = names(&["--layer", "moon"]).unwrap_err();
        assert!(
            error.contains("const, unit, miri, loom, bare, linux, freebsd"),
            "{error}"
        );
    }
}
