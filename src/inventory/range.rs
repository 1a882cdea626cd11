//! Ranges in host entries: `redis-[01:03]` is redis-01, redis-02, redis-03; `[a:c]` counts letters, `[01:09:2]` in
//! steps.

/// More names than this in one entry are refused: it is a slip, not a fleet.
pub const MAX_RANGE_HOSTS: usize = 10_000;
/// Digits of a bound of a range: those of the largest number that it can be.
const MAX_WIDTH: usize = 20;

/// Expands every range of an entry, the last one fastest. An entry without a range is itself.
///
/// # Errors
/// Returns a description of the problem if the entry is invalid.
pub fn expand_ranges(entry: &str) -> Result<Vec<String>, String> {
    let mut names = vec![String::new()];
    let mut rest = entry;
    while let Some(open) = rest.find('[') {
        let Some(length) = rest[open..].find(']') else {
            return Err("`[` without its `]`".to_owned());
        };
        let parts = parse_range(&rest[open + 1..open + length])?;
        if names.len().saturating_mul(parts.len()) > MAX_RANGE_HOSTS {
            return Err(too_many_error());
        }
        let lead = &rest[..open];
        names = names.iter().flat_map(|name| parts.iter().map(move |part| format!("{name}{lead}{part}"))).collect();
        rest = &rest[open + length + 1..];
    }
    if rest.contains(']') {
        return Err("`]` without its `[`".to_owned());
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    Ok(names)
}

fn too_many_error() -> String {
    format!("the range has more than {MAX_RANGE_HOSTS} hosts")
}

fn parse_range(range: &str) -> Result<Vec<String>, String> {
    let bounds: Vec<&str> = range.split(':').collect();
    let (from, to, step) = match bounds[..] {
        [from, to] => (from, to, "1"),
        [from, to, step] => (from, to, step),
        _ => return Err(format!("`[{range}]` is not a range; write `[01:03]`")),
    };
    let step: usize = step.parse().ok().filter(|step| *step > 0).ok_or("the step of a range must be 1 or more")?;
    if let (Some(first), Some(last)) = (parse_letter(from), parse_letter(to)) {
        if first.is_ascii_lowercase() != last.is_ascii_lowercase() {
            return Err(format!("the bounds of `[{range}]` have different case"));
        }
        if first > last {
            return Err(empty_range_error(range));
        }
        return Ok((first..=last).step_by(step).map(|c| char::from(c).to_string()).collect());
    }
    let digits = |bound: &str| !bound.is_empty() && bound.bytes().all(|b| b.is_ascii_digit());
    if !digits(from) || !digits(to) {
        return Err(format!("`[{range}]` is not a range; write `[01:03]` or `[a:c]`"));
    }
    // Padding is taken from the lower bound, as in Ansible; an upper bound of another width would be a guess.
    if from.starts_with('0') && from.len() > 1 && from.len() != to.len() {
        return Err(format!("the bounds of `[{range}]` have different widths"));
    }
    let number = |bound: &str| bound.parse::<u64>().map_err(|_| too_many_error());
    let (first, last) = (number(from)?, number(to)?);
    if first > last {
        return Err(empty_range_error(range));
    }
    if (last - first) / step as u64 >= MAX_RANGE_HOSTS as u64 {
        return Err(too_many_error());
    }
    let width = from.len();
    if width > MAX_WIDTH {
        return Err(format!("the bounds of a range have {MAX_WIDTH} digits at most"));
    }
    Ok((first..=last).step_by(step).map(|n| format!("{n:0width$}")).collect())
}

fn empty_range_error(range: &str) -> String {
    format!("the range `[{range}]` is empty: its first bound is the larger one")
}

fn parse_letter(bound: &str) -> Option<u8> {
    match bound.as_bytes() {
        [c] if c.is_ascii_alphabetic() => Some(*c),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::expand_ranges;

    #[test]
    fn bounds_of_any_length_are_an_error_and_no_panic() {
        for width in [21, 70_000] {
            let zeros = "0".repeat(width - 1);
            let error = expand_ranges(&format!("r[{zeros}1:{zeros}3]")).unwrap_err();
            assert!(error.contains("20 digits") && error.len() < 200, "{}", error.len());
        }
    }

    #[test]
    fn ranges_are_expanded_in_order() {
        for (entry, names) in [
            ("redis-01", "redis-01"),
            ("redis-[01:03]", "redis-01 redis-02 redis-03"),
            ("r[9:11]", "r9 r10 r11"),
            ("r[098:100]x", "r098x r099x r100x"),
            ("r[1:7:3]", "r1 r4 r7"),
            ("rack-[a:c]", "rack-a rack-b rack-c"),
            ("[a:b][1:2].example.org", "a1.example.org a2.example.org b1.example.org b2.example.org"),
            ("r[5:5]", "r5"),
        ] {
            assert_eq!(expand_ranges(entry).unwrap().join(" "), names, "{entry}");
        }
    }

    #[test]
    fn invalid_ranges_name_the_reason() {
        for (entry, message) in [
            ("r[3:1]", "the range `[3:1]` is empty: its first bound is the larger one"),
            ("r[c:a]", "the range `[c:a]` is empty: its first bound is the larger one"),
            ("r[1:10001]", "the range has more than 10000 hosts"),
            ("r[0:99999999999999999999999]", "the range has more than 10000 hosts"),
            ("r[1:200][1:200]", "the range has more than 10000 hosts"),
            ("r[01:3]", "the bounds of `[01:3]` have different widths"),
            ("r[1-3]", "`[1-3]` is not a range; write `[01:03]`"),
            ("r[1:x]", "`[1:x]` is not a range; write `[01:03]` or `[a:c]`"),
            ("r[1:3:0]", "the step of a range must be 1 or more"),
            ("r[1:3", "`[` without its `]`"),
            ("r1:3]", "`]` without its `[`"),
        ] {
            assert_eq!(expand_ranges(entry).unwrap_err(), message, "{entry}");
        }
        assert_eq!(expand_ranges("r[1:10000]").unwrap().len(), 10_000);
    }
}
