//! What `caching_sha2_password` keeps of a password, computed here: no password reaches the server, its logs or its password policy.
//!
//! The form is `$A$`, thousands of rounds in hexadecimal, `$`, 20 bytes of salt and 43 of the digest of SHA-256 crypt (manual, "Caching SHA-2 Pluggable
//! Authentication").

use rand::Rng;
use sha2::{Digest, Sha256};

const ROUNDS: usize = 5000;
const SALT: usize = 20;
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A replica takes no longer one (error 3056).
const LONGEST: usize = 32;

/// The password of our user, from the one that the backup volume keeps: 32 hexadecimal digits are 128 bits.
#[must_use]
pub fn shortened(kept: &str) -> &str {
    kept.char_indices().nth(LONGEST).map_or(kept, |(end, _)| kept.split_at(end).0)
}

/// The verifier of a password, with a salt of its own.
#[must_use]
pub fn verifier(password: &str) -> String {
    let mut random = rand::rng();
    let salt: [u8; SALT] = std::array::from_fn(|_| DIGITS[random.random_range(0..DIGITS.len())]);
    format!("$A$005${}{}", String::from_utf8_lossy(&salt), crypt(password.as_bytes(), &salt))
}

/// `block`, repeated to a length.
fn repeated(block: &[u8], length: usize) -> Vec<u8> {
    block.iter().copied().cycle().take(length).collect()
}

/// SHA-256 crypt without its prefix and salt (Ulrich Drepper, "Unix crypt using SHA-256 and SHA-512"); the salt may be longer than there.
fn crypt(password: &[u8], salt: &[u8]) -> String {
    let alternate = Sha256::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut first = Sha256::new().chain_update(password).chain_update(salt).chain_update(repeated(&alternate, password.len()));
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { &alternate[..] } else { password });
        bits >>= 1;
    }
    let mut digest = first.finalize();
    let every = |what: &[u8], times: usize| (0..times).fold(Sha256::new(), |hash, _| hash.chain_update(what)).finalize();
    let words = repeated(&every(password, password.len()), password.len());
    let salts = repeated(&every(salt, 16 + usize::from(digest[0])), salt.len());
    for round in 0..ROUNDS {
        let odd = round % 2 == 1;
        let mut hash = Sha256::new().chain_update(if odd { &words[..] } else { &digest[..] });
        if round % 3 != 0 {
            hash.update(&salts);
        }
        if round % 7 != 0 {
            hash.update(&words);
        }
        digest = hash.chain_update(if odd { &digest[..] } else { &words[..] }).finalize();
    }
    let mut text = String::with_capacity(43);
    let mut write = |three: [u8; 3], digits: usize| {
        let mut bits = three.iter().fold(0, |bits, byte| (bits << 8) | usize::from(*byte));
        for _ in 0..digits {
            text.push(char::from(DIGITS[bits & 63]));
            bits >>= 6;
        }
    };
    for place in 0..10 {
        // The order of the bytes turns with every three.
        let mut three = [place, place + 10, place + 20];
        three.rotate_right(place % 3);
        write(three.map(|place| digest[place]), 4);
    }
    write([0, digest[31], digest[30]], 3);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha_256_crypt() {
        // From the specification's own tests.
        assert_eq!(crypt(b"Hello world!", b"saltstring"), "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5");
    }

    #[test]
    fn a_password_is_no_longer_than_a_replica_takes() {
        assert_eq!(shortened(&"ab".repeat(32)), "ab".repeat(16));
        assert_eq!((shortened("short"), shortened("")), ("short", ""));
    }

    #[test]
    fn a_verifier_has_a_salt_of_its_own() {
        let (one, other) = (verifier("secret"), verifier("secret"));
        assert_ne!(one, other);
        assert_eq!(one.len(), 7 + SALT + 43);
        assert!(one.starts_with("$A$005$") && !one.contains('\''));
    }
}
