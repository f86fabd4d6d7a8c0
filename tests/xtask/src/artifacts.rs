//! The test programs that cargo has built, from its JSON messages.

/// One test program.
#[derive(Debug, PartialEq, Eq)]
pub struct TestProgram {
    /// `lib`, `bin` or `test`.
    pub kind: String,
    /// The name cargo knows the target by.
    pub name: String,
    /// The file to run.
    pub path: String,
}

/// Reads the messages of `cargo test --no-run --message-format=json-render-diagnostics`.
pub fn test_programs(stdout: &str) -> Vec<TestProgram> {
    stdout.lines().filter_map(test_program).collect()
}

/// Reads one message. Each is one line; cargo documents the fields, and none of the values needed
/// here holds a quotation mark, so looking for the fields is enough.
fn test_program(message: &str) -> Option<TestProgram> {
    let path = value(message, "\"executable\":\"")?;
    let target = message.split_once("\"target\":{")?.1;
    Some(TestProgram {
        kind: value(target, "\"kind\":[\"")?,
        name: value(target, "\"name\":\"")?,
        path,
    })
}

fn value(text: &str, field: &str) -> Option<String> {
    let (value, _) = text.split_once(field)?.1.split_once('"')?;
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_with_a_program_count() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"crate_types":["bin"],"#,
            r#""name":"loom"},"profile":{"test":true},"executable":"/x/loom-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let wanted = TestProgram {
            kind: "test".into(),
            name: "loom".into(),
            path: "/x/loom-1".into(),
        };
        assert_eq!(test_programs(messages), [wanted]);
    }
}
