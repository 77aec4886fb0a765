//! A small file system (tmpfs) that a test can fill to the last byte.

use std::path::Path;
use std::process::Command;

/// A mounted tmpfs of limited size.
pub(crate) struct Small(tempfile::TempDir);

impl Small {
    /// Returns `None`, and prints a note, where mounting is not permitted.
    pub(crate) fn mount(mebibytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(directory)),
            refused => {
                println!("SKIPPED: a small file system cannot be mounted here: {refused:?}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A lazy unmount: a server may still use the file system.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}
