//! Compares what an image runs on with what a node is.

use proto::model::Platform;

/// Whether a node of `node` runs images for `image`. What the image leaves empty fits all.
pub fn fits(image: &Platform, node: &Platform) -> bool {
    let os = image.os.is_empty() || image.os.eq_ignore_ascii_case(&node.os);
    os && (image.architecture.is_empty() || canonical(&image.architecture) == canonical(&node.architecture))
}

/// Nodes report the kernel's name of the architecture, images carry Go's.
pub fn canonical(architecture: &str) -> String {
    let lower = architecture.to_ascii_lowercase();
    let name = match lower.as_str() {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" | "arm64/v8" => "arm64",
        "armhf" | "armel" | "armv6l" | "armv7l" => "arm",
        "i386" | "i486" | "i586" | "i686" => "386",
        _ => return lower,
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(os: &str, architecture: &str) -> Platform {
        Platform { os: os.into(), architecture: architecture.into() }
    }

    #[test]
    fn architectures_have_several_names() {
        let node = platform("linux", "x86_64");
        for (image, expected) in [
            (platform("linux", "amd64"), true),
            (platform("Linux", "x86_64"), true),
            (platform("", ""), true),
            (platform("", "AMD64"), true),
            (platform("linux", "arm64"), false),
            (platform("windows", "amd64"), false),
        ] {
            assert_eq!(fits(&image, &node), expected, "{image:?}");
        }
        assert!(fits(&platform("linux", "arm64"), &platform("linux", "aarch64")));
    }
}
