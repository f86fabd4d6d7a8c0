//! Reading Rust source: functions, modules and attributes, also inside macro calls.
//!
//! The source is cut into tokens by the compiler's own rules, so text in strings and ordinary
//! comments is never mistaken for code. Doc comments arrive as `doc` attributes.

use crate::Outcome;
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::path::Path;

/// An attribute, or one line of a doc comment.
pub struct Attribute {
    tokens: TokenStream,
}

/// Something of interest in a source file.
pub enum Item {
    /// A function with its attributes; `in_macro` if it is an argument of a macro call.
    Function {
        name: String,
        line: usize,
        attributes: Vec<Attribute>,
        in_macro: bool,
    },
    /// A module in a file of its own, `mod name;`, with its attributes.
    ModuleFile {
        name: String,
        attributes: Vec<Attribute>,
    },
    /// Attributes of anything else; `inner` for `#![…]`.
    Other {
        attributes: Vec<Attribute>,
        inner: bool,
    },
}

/// The items of a source file, in the order of the text.
pub fn items(text: &str, path: &Path) -> Outcome<Vec<Item>> {
    let stream: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| {
        let line = error.span().start().line;
        format!("{}:{line} is not Rust: {error}.", path.display())
    })?;
    let mut found = Vec::new();
    walk(stream, false, &mut found);
    Ok(found)
}

impl Attribute {
    /// The text of a doc comment's line.
    pub fn doc(&self) -> Option<String> {
        let mut tokens = self.tokens.clone().into_iter();
        let (Some(TokenTree::Ident(name)), Some(TokenTree::Punct(_)), Some(text)) =
            (tokens.next(), tokens.next(), tokens.next())
        else {
            return None;
        };
        let text = text.to_string();
        (name == "doc").then(|| text.trim_matches('"').trim().to_owned())
    }

    /// Whether this is `#[name]`, `#[name(…)]`, `#[name = …]` or `#[path::name]`.
    pub fn is(&self, name: &str) -> bool {
        let path = self
            .tokens
            .clone()
            .into_iter()
            .take_while(|token| match token {
                TokenTree::Ident(_) => true,
                TokenTree::Punct(punct) => punct.as_char() == ':',
                _ => false,
            });
        path.last().is_some_and(|token| is_word(&token, name))
    }

    /// Whether somewhere in this attribute `word(…)` has `argument` among its arguments.
    pub fn sets(&self, word: &str, argument: &str) -> bool {
        sets(&self.tokens, word, argument)
    }
}

fn sets(tokens: &TokenStream, word: &str, argument: &str) -> bool {
    let mut after_word = false;
    for token in tokens.clone() {
        if let TokenTree::Group(group) = &token {
            let mut arguments = group.stream().into_iter();
            if after_word && arguments.any(|token| is_word(&token, argument))
                || sets(&group.stream(), word, argument)
            {
                return true;
            }
        }
        after_word = is_word(&token, word);
    }
    false
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_group(token: Option<&TokenTree>, wanted: Delimiter) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == wanted)
}

/// Collects the items of one level and of all groups within it.
fn walk(stream: TokenStream, in_macro: bool, found: &mut Vec<Item>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut attributes = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let (next, next_but_one) = (tokens.get(at + 1), tokens.get(at + 2));
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if let Some(attribute) = attribute(next) {
                    attributes.push(attribute);
                    at += 1;
                } else if let (true, Some(attribute)) =
                    (is_punct(next, '!'), attribute(next_but_one))
                {
                    found.push(Item::Other {
                        attributes: vec![attribute],
                        inner: true,
                    });
                    at += 2;
                }
            }
            TokenTree::Ident(word) if word == "fn" => {
                if let Some(TokenTree::Ident(name)) = next {
                    found.push(Item::Function {
                        name: name.to_string(),
                        line: name.span().start().line,
                        attributes: std::mem::take(&mut attributes),
                        in_macro,
                    });
                    at += 1;
                }
            }
            TokenTree::Ident(word) if word == "mod" && is_punct(next_but_one, ';') => {
                found.push(Item::ModuleFile {
                    name: next.map(ToString::to_string).unwrap_or_default(),
                    attributes: std::mem::take(&mut attributes),
                });
                at += 1;
            }
            token
                if is_modifier(
                    token,
                    at.checked_sub(1).and_then(|before| tokens.get(before)),
                ) => {}
            other => {
                if !attributes.is_empty() {
                    let attributes = std::mem::take(&mut attributes);
                    found.push(Item::Other {
                        attributes,
                        inner: false,
                    });
                }
                if let TokenTree::Group(group) = other {
                    let called = at
                        .checked_sub(1)
                        .is_some_and(|bang| is_punct(tokens.get(bang), '!'));
                    walk(group.stream(), in_macro || called, found);
                }
            }
        }
        at += 1;
    }
}

fn attribute(token: Option<&TokenTree>) -> Option<Attribute> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            Some(Attribute {
                tokens: Group::stream(group),
            })
        }
        _ => None,
    }
}

/// Whether a token may stand between an attribute and the `fn` or `mod` it belongs to.
fn is_modifier(token: &TokenTree, before: Option<&TokenTree>) -> bool {
    match token {
        TokenTree::Ident(word) => ["pub", "const", "async", "unsafe", "extern"]
            .iter()
            .any(|modifier| word == modifier),
        TokenTree::Literal(_) => before.is_some_and(|before| is_word(before, "extern")),
        TokenTree::Group(_) => {
            is_group(Some(token), Delimiter::Parenthesis)
                && before.is_some_and(|before| is_word(before, "pub"))
        }
        TokenTree::Punct(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Item> {
        items(text, Path::new("a.rs")).unwrap()
    }

    #[test]
    fn a_function_keeps_its_docs_and_attributes() {
        let found =
            read("/// One.\n#[test]\n#[cfg(a)]\npub(crate) unsafe extern \"C\" fn two() {}");
        let [
            Item::Function {
                name,
                line,
                attributes,
                in_macro,
            },
        ] = &found[..]
        else {
            panic!("one function expected");
        };
        assert_eq!((name.as_str(), *line, *in_macro), ("two", 4, false));
        assert_eq!(attributes[0].doc().unwrap(), "One.");
        assert!(attributes[1].is("test") && !attributes[2].is("test"));
    }

    #[test]
    fn functions_in_macro_calls_and_modules_are_found() {
        let found = read("proptest! { fn a(x in 0..9) {} } mod m { fn b() {} }");
        let names: Vec<_> = found
            .iter()
            .filter_map(|item| match item {
                Item::Function { name, in_macro, .. } => Some((name.as_str(), *in_macro)),
                _ => None,
            })
            .collect();
        assert_eq!(names, [("a", true), ("b", false)]);
    }

    #[test]
    fn attributes_of_other_items_do_not_leak_to_the_next_function() {
        let found = read("#[test] struct S; fn f() {}");
        let [Item::Other { .. }, Item::Function { attributes, .. }] = &found[..] else {
            panic!("an attribute and a function expected");
        };
        assert!(attributes.is_empty());
    }

    #[test]
    fn strings_comments_and_function_pointers_are_not_functions() {
        assert!(read("const A: &str = \"fn a() {}\"; // fn b() {}\ntype C = fn(u8);").is_empty());
    }

    #[test]
    fn lint_levels_are_found_also_inside_cfg_attr() {
        let found = read("#![cfg_attr(loom, allow(dead_code, unsafe_code, reason = \"x\"))]");
        let [
            Item::Other {
                attributes,
                inner: true,
            },
        ] = &found[..]
        else {
            panic!("an inner attribute expected");
        };
        assert!(attributes[0].sets("allow", "unsafe_code"));
        assert!(!attributes[0].sets("deny", "unsafe_code"));
    }

    #[test]
    fn a_module_file_carries_its_attributes() {
        let found = read("#[expect(unsafe_code)] pub mod mem; mod inline {}");
        let [Item::ModuleFile { name, attributes }] = &found[..] else {
            panic!("one module file expected");
        };
        assert_eq!(name, "mem");
        assert!(attributes[0].sets("expect", "unsafe_code"));
    }

    #[test]
    fn text_that_is_no_rust_is_an_error_in_words() {
        let error = items("fn a( {", Path::new("a.rs")).err().unwrap();
        assert!(error.starts_with("a.rs:"), "{error}");
    }
}
