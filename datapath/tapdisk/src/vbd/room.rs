//! What the log says of a disk whose writes find no room: that they do not, why, and what helps; and that they
//! do again. Each once, however often guests try.

use std::time::{Duration, Instant};

/// The shortest time between two messages that a disk's writes find no room. In between they may find some.
const INTERVAL: Duration = Duration::from_secs(60);

/// What was said of a disk.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// The last message was that there is none.
    is_full: bool,
    said_at: Option<Instant>,
}

/// A message: there is none, and why; there is some again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Full(&'a str),
    Free,
}

impl Room {
    /// Looks at why writes find no room, if they do not; what is to be said.
    pub(super) fn look<'a>(
        &mut self,
        no_room: Option<&'a str>,
        now: Instant,
    ) -> Option<Message<'a>> {
        match no_room {
            None if self.is_full => {
                self.is_full = false;
                Some(Message::Free)
            }
            Some(why)
                if !self.is_full && self.said_at.is_none_or(|said| now - said >= INTERVAL) =>
            {
                self.is_full = true;
                self.said_at = Some(now);
                Some(Message::Full(why))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_said_once_and_not_more_often_than_once_a_minute() {
        let (mut room, begin) = (Room::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(room.look(None, at(0)), None);
        assert_eq!(room.look(Some("full"), at(1)), Some(Message::Full("full")));
        assert_eq!(room.look(Some("full"), at(100)), None);
        assert_eq!(room.look(None, at(101)), Some(Message::Free));
        assert_eq!(room.look(Some("again"), at(102)), Some(Message::Full("again")));
        assert_eq!(room.look(None, at(103)), Some(Message::Free));
        assert_eq!(room.look(Some("again"), at(104)), None, "a minute has not passed");
        assert_eq!(room.look(None, at(105)), None);
        assert_eq!(room.look(Some("again"), at(162)), Some(Message::Full("again")));
    }
}
