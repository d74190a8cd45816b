//! `BASE+ADAPTER`, taken apart.

/// Splits `BASE+ADAPTER`; `exists` knows what is there. Names may have a `+` of their own: what is
/// there as a whole is not split, and of several places the first one counts that has something on
/// both sides, or else before it.
pub fn split(name: &str, exists: impl Fn(&str) -> bool) -> (&str, Option<&str>) {
    if exists(name) {
        return (name, None);
    }
    let places = || name.match_indices('+').map(|(at, _)| at);
    let based = |at: &usize| exists(&name[..*at]);
    let place = places().find(|at| based(at) && exists(&name[at + 1..]));
    let place = place.or_else(|| places().find(based));
    match place.or_else(|| places().next()) {
        Some(at) => (&name[..at], Some(&name[at + 1..])),
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_where_a_model_ends() {
        let there = ["c++/model", "a+b", "c", "x"];
        for (name, expected) in [
            ("model", ("model", None)),
            ("a+b", ("a+b", None)),
            ("a+b+x", ("a+b", Some("x"))),
            ("c+x+y", ("c", Some("x+y"))),
            ("c++/model+x", ("c++/model", Some("x"))),
            ("owner/name+x", ("owner/name", Some("x"))),
        ] {
            assert_eq!(
                split(name, |name| there.contains(&name)),
                expected,
                "{name}"
            );
        }
    }
}
