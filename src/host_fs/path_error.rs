//! Reasons why a path of a host cannot be used.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Describes why a path cannot be opened, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// A link that a user made leads to something that belongs to another user.
    #[error(
        "unsafe path: {} is a link of {link_owner} to {}, which belongs to {target_owner}; dunlin does not follow it: \
         remove the link, or name the real path",
        link.display(),
        target.display()
    )]
    UnsafeLink {
        /// The link.
        link: PathBuf,
        /// The user who owns the link.
        link_owner: String,
        /// The real path that the link leads to.
        target: PathBuf,
        /// The user who owns that.
        target_owner: String,
    },
    /// More links on the way than Linux follows in one path.
    #[error("{}: too many symbolic links", path.display())]
    TooManyLinks {
        /// The path.
        path: PathBuf,
    },
    /// Something else is at the path.
    #[error("{} is {found}, not {expected}", path.display())]
    WrongType {
        /// The path.
        path: PathBuf,
        /// Description of the existing entry: `a symbolic link`.
        found: &'static str,
        /// Description of what must be there: `a regular file`.
        expected: &'static str,
    },
    /// A file or folder that root relies upon belongs to another user.
    #[error("{} belongs to {owner}; dunlin does not use what another user controls", path.display())]
    WrongOwner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        owner: String,
    },
    /// Other users can change what is in a folder.
    #[error("{} has mode {mode:04o}, so other users can change its contents; remove their write permission", path.display())]
    Writable {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file has a second name, which may be in a folder of another user, or be another user's file.
    #[error(
        "{} has a second name (a hard link); a user may have made it, and a change would affect both: remove one of them",
        path.display()
    )]
    HardLink {
        /// The file.
        path: PathBuf,
    },
    /// A file is larger than what is read of such a file.
    #[error("{} has {size} bytes; dunlin reads at most {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file is not UTF-8 text.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A recursion would leave its file system.
    #[error("{} is a mount point; unmount it first: dunlin does not remove what is mounted there", path.display())]
    MountPoint {
        /// The folder that something is mounted on.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Operation that failed: `open`, `read`, `remove` …
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl PathError {
    /// Describes an operation that the system refused.
    pub fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// Describes a path at which nothing is.
    pub fn not_found(path: &Path) -> Self {
        Self::io("open", path, ErrorKind::NotFound)
    }

    /// Returns whether nothing is at the path, or a part of it is not a folder.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
            _ => false,
        }
    }
}
