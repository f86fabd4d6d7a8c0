//! An archive that the kernel unpacks into its first file system: cpio, in its "new ASCII" form.
//!
//! Source: the kernel's documentation, "initramfs buffer format".

/// The kinds of files, as in a file's mode.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTERS: u32 = 0o020_600;

/// An archive that grows.
pub struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            files: 0,
        }
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) {
        self.add(name, FOLDER, (0, 0), &[]);
    }

    /// Adds the node through which the first process speaks.
    pub fn console(&mut self, name: &str) {
        self.add(name, CHARACTERS, (5, 1), &[]);
    }

    /// Adds a file that may be run.
    pub fn program(&mut self, name: &str, content: &[u8]) {
        self.add(name, PROGRAM, (0, 0), content);
    }

    /// Adds a file by its absolute path, and the folders above it.
    pub fn file_with_folders(&mut self, path: &str, content: &[u8]) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.folder(&path[..at]);
        }
        self.program(path, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.files += 1;
        let links = 1;
        let fields = [
            self.files,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Names and contents begin at multiples of four.
    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_kernel_documents() {
        let mut archive = Archive::new();
        archive.program("a", b"xyz");
        let text = String::from_utf8(archive.finish()).unwrap();
        let first = "070701000000010000\
                     81ed00000000000000000000000100000000000000030000000000000000\
                     00000000000000000000000200000000";
        assert!(
            text.starts_with(&format!("{first}a\0xyz\0070701")),
            "{text}"
        );
        assert!(text.contains("TRAILER!!!\0"));
        assert!(text.len().is_multiple_of(4));
    }
}
