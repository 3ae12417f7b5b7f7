//! The format of `/etc/resolv.conf`, resolv.conf(5).

use std::fmt;
use std::net::IpAddr;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads what is understood and passes over the rest, as the C library does. Servers with a zone
    /// (`fe80::1%eth0`) are not understood.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    conf.nameservers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                // The last one counts.
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }
}

impl fmt::Display for ResolvConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in &self.nameservers {
            writeln!(f, "nameserver {server}")?;
        }
        for (key, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                writeln!(f, "{key} {}", values.join(" "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_passes_over_the_rest() {
        let text = "nameserver 9.9.9.9\nnameserver fd00::1\nsearch a.b c\noptions ndots:2 rotate\n";
        let conf = ResolvConf::parse(text);
        assert_eq!(conf.nameservers.len(), 2);
        assert_eq!(conf.to_string(), text);
        let odd =
            "# nameserver 1.1.1.1\n;x\nnameserver\nnameserver fe80::1%eth0\ndomain x\nsearch y\nsortlist z\n";
        let expected = ResolvConf { search: vec!["y".into()], ..ResolvConf::default() };
        assert_eq!(ResolvConf::parse(odd), expected);
    }
}
