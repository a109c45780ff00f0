//! How a command ends when it does not end well: one kind per exit code.
//!
//! Deliberately absent: causes that would be printed twice; a message is complete when it gets here.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use thiserror::Error;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok = 0,
    /// A check failed, or something broke.
    FailedCheck = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The configuration is invalid.
    InvalidConfig = 3,
    /// What was asked does not answer.
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do its work.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line asks for something that makes no sense.
    #[error("{message}")]
    Usage {
        /// What and why.
        message: String,
    },
    /// The configuration cannot be used at all.
    #[error("{message}")]
    InvalidConfig {
        /// What and why.
        message: String,
    },
    /// Something that must answer does not.
    #[error("{message}")]
    Unreachable {
        /// What and why.
        message: String,
    },
    /// Something else broke.
    #[error("{doing}: {cause}")]
    Broken {
        /// What was being done.
        doing: String,
        /// What the system said.
        cause: String,
    },
    /// Whoever reads our output has gone away.
    #[error("nobody reads the output")]
    OutputClosed,
}

impl Failure {
    /// Something broke while `doing`.
    pub(crate) fn broken(doing: impl Into<String>, cause: impl Display) -> Self {
        Self::Broken { doing: doing.into(), cause: cause.to_string() }
    }

    /// A command line that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into() }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } => Exit::Usage,
            Self::InvalidConfig { .. } => Exit::InvalidConfig,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Broken { .. } => Exit::FailedCheck,
            Self::OutputClosed => Exit::Ok,
        }
    }
}

/// Writing our output: `head` closing the pipe is not a fault.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::broken("writing the output", error)
    }
}
