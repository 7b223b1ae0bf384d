//! What is sent, when the socket takes it. So a neighbour that never reads holds no memory.

use super::{
    connection::State,
    neighbour::{Context, Session},
};
use crate::{
    Conn,
    rib::Rib,
    wire::{Message, Refresh, RouteRefresh},
};

impl Session {
    pub fn outgoing(&mut self, conn: Conn, buffer: &mut Vec<u8>, most: usize, cx: &mut Context) {
        let Some(at) = self.conns.iter().position(|c| c.conn == conn) else { return };
        let connection = &mut self.conns[at];
        for family in std::mem::take(&mut connection.asks) {
            let kind = Refresh::Request;
            connection.send(&Message::RouteRefresh(RouteRefresh { family, kind }));
        }
        let (control, mut messages) = connection.take_out();
        buffer.extend_from_slice(&control);
        let up = connection.state == State::Established;
        if up && control.len() < most {
            messages += cx.rib.outgoing(self.addr, buffer, most - control.len());
        }
        self.messages_out += messages;
        if messages > 0 && connection.state >= State::OpenConfirm {
            connection.plan_keepalive(cx.now, &mut self.retry);
        }
    }

    pub fn has_outgoing(&self, conn: Conn, rib: &Rib) -> bool {
        let Some(connection) = self.conns.iter().find(|c| c.conn == conn) else { return false };
        let up = connection.state == State::Established;
        connection.has_out() || (up && rib.has_outgoing(self.addr))
    }
}
