//! Running other programs: shown to the reader, or captured and judged.

use crate::Outcome;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A silent program is reported as still running this often.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What a captured program has left behind.
pub struct Finished {
    /// It ended by itself with exit code 0.
    pub success: bool,
    /// How it ended, in words.
    pub ending: String,
    /// Its standard output.
    pub stdout: String,
    /// Both of its outputs, in the order of arrival.
    pub output: String,
    /// How long it ran.
    pub time: Duration,
}

/// A line of one of the two outputs.
struct Line {
    text: String,
    is_stdout: bool,
}

/// Runs a program whose output goes straight to the reader; true if it succeeded.
pub fn shown(command: &mut Command) -> Outcome<bool> {
    let status = command.stdin(Stdio::null()).status();
    Ok(status
        .map_err(|error| cannot_start(command, &error))?
        .success())
}

/// Runs a program, keeps its output and hands each line to `on_line` as it arrives.
///
/// `name` is what the reader sees while the program takes long. A program that runs longer than
/// `limit` is killed with its children and counts as failed. Without a limit it stays in the
/// reader's process group, so that Ctrl-C ends it too.
pub fn captured(
    command: &mut Command,
    limit: Option<Duration>,
    name: &str,
    mut on_line: impl FnMut(&str),
) -> Outcome<Finished> {
    let start = Instant::now();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.env("CARGO_TERM_COLOR", "never");
    if limit.is_some() {
        command.process_group(0);
    }
    let mut child = command
        .spawn()
        .map_err(|error| cannot_start(command, &error))?;
    let lines = read_lines(&mut child);

    let mut stdout = String::new();
    let mut output = String::new();
    let mut next_beat = start + HEARTBEAT;
    let over = loop {
        match next_line(&lines, next_beat.saturating_duration_since(Instant::now())) {
            Next::Line(line) => {
                on_line(&line.text);
                append(&mut output, &line.text);
                if line.is_stdout {
                    append(&mut stdout, &line.text);
                }
            }
            Next::Nothing => {
                println!("    … {name}, {}", seconds(start.elapsed()));
                next_beat += HEARTBEAT;
            }
            Next::End => break false,
        }
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            break true;
        }
    };
    if over {
        kill_group(&child).map_err(|error| format!("cannot stop {name}: {error}."))?;
    }
    let status = child
        .wait()
        .map_err(|error| format!("cannot wait for {name}: {error}."))?;
    let time = start.elapsed();
    let ending = if over {
        format!("stopped after {}", seconds(time))
    } else {
        status.to_string()
    };
    Ok(Finished {
        success: status.success() && !over,
        ending,
        stdout,
        output,
        time,
    })
}

/// Kills a child that leads a process group, and whatever it started.
fn kill_group(child: &Child) -> std::io::Result<()> {
    let group = format!("-{}", child.id());
    Command::new("kill")
        .args(["-KILL", "--", &group])
        .status()
        .map(drop)
}

/// A duration as the reader wants it.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

enum Next {
    Line(Line),
    Nothing,
    End,
}

fn next_line(lines: &Receiver<Line>, wait: Duration) -> Next {
    match lines.recv_timeout(wait) {
        Ok(line) => Next::Line(line),
        Err(RecvTimeoutError::Timeout) => Next::Nothing,
        Err(RecvTimeoutError::Disconnected) => Next::End,
    }
}

/// Starts one reader per output; the channel ends when both outputs have ended.
fn read_lines(child: &mut Child) -> Receiver<Line> {
    let (sender, lines) = channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, true, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, false, sender);
    }
    lines
}

fn forward(output: impl Read + Send + 'static, is_stdout: bool, sender: Sender<Line>) {
    thread::spawn(move || {
        for bytes in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if sender.send(Line { text, is_stdout }).is_err() {
                break;
            }
        }
    });
}

fn append(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    let program = command.get_program().display();
    format!("cannot start {program}: {error}. Is it installed and in PATH?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_captured_program_leaves_its_output_and_its_exit_code() {
        let mut seen = 0;
        let mut command = shell("echo one; echo two >&2; exit 3");
        let finished = captured(&mut command, None, "sh", |_| seen += 1).unwrap();
        assert!(!finished.success);
        assert!(finished.ending.contains('3'), "{}", finished.ending);
        assert_eq!(finished.stdout, "one\n");
        assert_eq!(finished.output.lines().count(), 2);
        assert_eq!(seen, 2);
    }

    #[test]
    fn a_program_that_runs_too_long_is_stopped_and_counts_as_failed() {
        let mut command = shell("while :; do echo still here; done");
        let limit = Some(Duration::from_millis(50));
        let finished = captured(&mut command, limit, "sh", |_| {}).unwrap();
        assert!(!finished.success);
        assert!(
            finished.ending.starts_with("stopped"),
            "{}",
            finished.ending
        );
    }

    #[test]
    fn the_children_of_a_program_that_runs_too_long_are_stopped_too() {
        // The child holds the outputs open: as long as it lives, the reader waits for its end.
        let mut command = shell("sleep 1000 & echo $!; while :; do echo still here; done");
        let mut first = None;
        let limit = Some(Duration::from_millis(50));
        captured(&mut command, limit, "sh", |line| {
            first.get_or_insert_with(|| line.to_owned());
        })
        .unwrap();
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", first.as_ref().unwrap()));
            stat.is_ok_and(|stat| !stat.contains(") Z"))
        };
        let start = Instant::now();
        while alive() {
            assert!(start.elapsed() < Duration::from_secs(60), "it lives on");
            thread::yield_now();
        }
    }

    #[test]
    fn a_missing_program_is_an_error_in_words() {
        let mut command = Command::new("no-such-program-here");
        let error = captured(&mut command, None, "it", |_| {}).err().unwrap();
        assert!(
            error.contains("cannot start no-such-program-here"),
            "{error}"
        );
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(1300)), "1.3 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
