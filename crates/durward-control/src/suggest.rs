//! "Did you mean …?": the known word nearest to a mistyped one.
//!
//! Deliberately absent: guesses about words that share little with any known one.

/// Characters of a word that are compared.
const LONGEST: usize = 64;

/// The word of `known` nearest to `written`, when it is near enough to be meant.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = written.to_ascii_lowercase();
    let allowed = (wanted.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|word| (distance(&wanted, &word.to_ascii_lowercase()), word))
        .filter(|&(distance, word)| distance <= allowed && distance < word.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

/// ` (did you mean "x"?)`, or nothing.
pub fn hint<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, known).map(|word| format!(" (did you mean {word:?}?)")).unwrap_or_default()
}

/// Insertions, deletions, replacements and swaps of neighbours between two words. Only their first [`LONGEST`] characters count, so that
/// a word of a document costs little whatever its length.
fn distance(a: &str, b: &str) -> usize {
    let begin = |word: &str| word.chars().take(LONGEST).collect::<String>();
    strsim::osa_distance(&begin(a), &begin(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood_and_another_word_is_not() {
        let known = ["address", "port", "upstream", "clientCertificates"];

        assert_eq!(nearest("adress", known), Some("address"));
        assert_eq!(nearest("upstraem", known), Some("upstream"));
        assert_eq!(nearest("clientcertificate", known), Some("clientCertificates"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("", known), None);
    }
}
