//! The rules that the core states, from its list.

use super::is_id;

/// The ids in the order of the text, and what is wrong with the list.
///
/// A rule begins with `- **ID** ` at the start of a line.
pub fn parse(text: &str) -> (Vec<String>, Vec<String>) {
    let mut rules: Vec<String> = Vec::new();
    let mut faults = Vec::new();
    for line in text.lines() {
        let Some((id, _)) = line
            .strip_prefix("- **")
            .and_then(|rest| rest.split_once("** "))
        else {
            continue;
        };
        if !is_id(id) {
            faults.push(format!(
                "the list of rules has {id:?}, which is no id such as MS-7."
            ));
        } else if rules.iter().any(|rule| rule == id) {
            faults.push(format!("the list of rules states {id} twice."));
        } else {
            rules.push(id.to_owned());
        }
    }
    if rules.is_empty() {
        faults.push("the list of rules is empty.".to_owned());
    }
    (rules, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_in_order() {
        let text = "# MS\n\n- **MS-1** One.\n  More **MS-9** of it.\n- **MS-2** Two.\n- plain\n";
        assert_eq!(
            parse(text),
            (vec!["MS-1".to_owned(), "MS-2".to_owned()], vec![])
        );
    }

    #[test]
    fn doubles_and_bad_ids_are_faults() {
        let (rules, faults) = parse("- **MS-1** One.\n- **MS-1** Again.\n- **ms2** Two.\n");
        assert_eq!((rules.len(), faults.len()), (1, 2));
    }

    #[test]
    fn an_empty_list_is_a_fault() {
        assert_eq!(parse("").1.len(), 1);
    }
}
