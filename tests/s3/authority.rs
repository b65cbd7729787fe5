//! A private certificate authority that signs server certificates with the system's `openssl`
//! program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate authority whose files lie in `folder`.
pub struct Authority<'a> {
    folder: &'a Path,
}

impl<'a> Authority<'a> {
    pub fn new(folder: &'a Path, name: &str) -> Self {
        let authority = Self { folder };
        let subject = format!("-subj /CN={name} -keyout ca.key -out ca.pem");
        authority.openssl(&format!("req -x509 -days 2 -nodes -newkey rsa:2048 {subject}"));
        authority
    }

    /// The authority's certificate, which clients have to trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Creates a server certificate for `names`, such as `IP:127.0.0.1`. Returns the files of the
    /// certificate and of its key.
    pub fn sign(&self, names: &str) -> (PathBuf, PathBuf) {
        let extensions = format!("subjectAltName={names}\n");
        std::fs::write(self.folder.join("server.ext"), extensions).expect("a file in a folder of ours");
        self.openssl("req -nodes -newkey rsa:2048 -subj /CN=server -keyout server.key -out server.csr");
        self.openssl(
            "x509 -req -days 2 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile server.ext -out server.pem",
        );
        (self.folder.join("server.pem"), self.folder.join("server.key"))
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        let output = command.args(arguments.split(' ')).current_dir(self.folder).output().expect("openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
