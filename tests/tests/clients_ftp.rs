//! FTP sessions through a switch that translates addresses: curl and vsftpd, active and passive, with the old commands and the
//! extended ones, in both families; the translated end is the client, or the server. See [`weft_tests::edge`].

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weft_tests::cmd::SHORT;
use weft_tests::edge::{Edge, Family, V4, V6, needs};
use weft_tests::{Lab, Netns, Process, Result, scenarios, servers, wait_for, wait_for_listener};

scenarios! {
    a_translated_client_has_its_data_connections needs needs(&["curl", "vsftpd"]);
    a_translated_server_has_its_data_connections needs needs(&["curl", "vsftpd"]);
    without_the_helper_no_data_connection_comes needs needs(&["curl", "vsftpd"]);
}

/// Who opens the data connection, and by which command it is agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Port,
    Eprt,
    Pasv,
    Epsv,
}

impl Mode {
    /// The modes that a family has: `PORT` and `PASV` know IPv4 only.
    fn of(family: Family) -> &'static [Mode] {
        if family == V4 {
            &[Mode::Port, Mode::Eprt, Mode::Pasv, Mode::Epsv]
        } else {
            &[Mode::Eprt, Mode::Epsv]
        }
    }

    /// curl's flags. It is to believe the address that `PASV` answers with.
    fn flags(self) -> &'static [&'static str] {
        match self {
            Mode::Port => &["--ftp-port", "-", "--disable-eprt"],
            Mode::Eprt => &["--ftp-port", "-"],
            Mode::Pasv => &["--disable-epsv", "--no-ftp-skip-pasv-ip"],
            Mode::Epsv => &[],
        }
    }

    fn is_active(self) -> bool {
        matches!(self, Mode::Port | Mode::Eprt)
    }

    /// How an address and port stand in the text of this mode, without the port's digits.
    fn spelled(self, family: Family, address: &str) -> String {
        match self {
            Mode::Port => format!("PORT {},", address.replace('.', ",")),
            Mode::Eprt if family == V4 => format!("EPRT |1|{address}|"),
            Mode::Eprt => format!("EPRT |2|{address}|"),
            Mode::Pasv => format!("227 Entering Passive Mode ({},", address.replace('.', ",")),
            Mode::Epsv => "229 Entering Extended Passive Mode (|||".to_owned(),
        }
    }
}

/// vsftpd on port 21 of both families, for everybody. Its root has `file`, of [`servers::content`], and `pub`, which takes files; it writes down what is
/// said.
fn ftp_server(lab: &Lab, ns: &Netns) -> Result<Process> {
    let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    let (root, empty, inbox) = (lab.path("ftp"), lab.path("ftp-empty"), lab.path("ftp/pub"));
    for folder in [&empty, &inbox] {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(root.join("file"), servers::content())?;
    open(lab.dir(), 0o755)?;
    open(&inbox, 0o777)?;
    let settings = format!(
        "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nno_anon_password=YES\n\
         write_enable=YES\nanon_upload_enable=YES\nanon_umask=022\nconnect_from_port_20=YES\nseccomp_sandbox=NO\n\
         anon_root={}\nsecure_chroot_dir={}\nxferlog_enable=YES\nlog_ftp_protocol=YES\nvsftpd_log_file={}\n",
        root.display(),
        empty.display(),
        lab.path("vsftpd.said").display()
    );
    let file = lab.path("vsftpd.conf");
    std::fs::write(&file, settings)?;
    let server = ns.spawn(lab, "vsftpd", &["vsftpd", &file.display().to_string()])?;
    wait_for_listener(ns, 21)?;
    Ok(server)
}

/// What the server has heard and said so far.
fn heard(lab: &Lab) -> String {
    std::fs::read_to_string(lab.path("vsftpd.said")).unwrap_or_default()
}

/// Fetches `file`, then stores it as `name`; returns what curl wrote down of the sessions.
fn session(lab: &Lab, from: &Netns, host: &str, mode: Mode, name: &str) -> Result<String> {
    let (fetched, stored) = (lab.path("fetched"), lab.path("ftp/pub").join(name));
    let (into, of) = (fetched.display().to_string(), lab.path("ftp/file").display().to_string());
    let mut said = String::new();
    for (transfer, url) in [(["-o", &into], "file".to_owned()), (["-T", &of], format!("pub/{name}"))] {
        let url = format!("ftp://{host}/{url}");
        let words = ["curl", "-sSgv", "--max-time", "20"];
        let output = from.run(&[&words[..], mode.flags(), &transfer, &[&url]].concat(), SHORT)?;
        assert!(output.success(), "{mode:?} {url}: {output:?}");
        said += &output.stderr;
    }
    assert!(std::fs::read(&fetched)? == servers::content(), "{mode:?}: not what was to be fetched");
    assert!(std::fs::read(&stored)? == servers::content(), "{mode:?}: not what was to be stored");
    Ok(said)
}

/// The control connection and the data connections of one session, as `conntrack list` has them.
struct Listed {
    control: Vec<String>,
    data: Vec<String>,
}

/// What is listed of a session's two transfers, once all is closed: nothing is under way any more then.
fn listed(edge: &Edge) -> Result<Listed> {
    let mut lines = Vec::new();
    wait_for("closed connections", SHORT, || {
        lines = edge.connections("proto=tcp")?;
        Ok(lines.iter().all(|line| line.contains("state=FIN_WAIT_2)") || line.contains("state=TIME_WAIT)")))
    })?;
    let (control, data) = lines.into_iter().partition(|line| line.contains("helper=ftp"));
    Ok(Listed { control, data })
}

/// Two transfers: two control connections with the helper, and a data connection of each, whose parent is one of them.
fn assert_listed(edge: &Edge, mode: Mode, control: [&str; 4], data: [&str; 4]) -> Result {
    let listed = listed(edge)?;
    assert_eq!(
        (listed.control.len(), listed.data.len()),
        (2, 2),
        "{mode:?}: {:?}",
        (listed.control, listed.data)
    );
    let has = |line: &String, [src, dst, reply_src, reply_dst]: [&str; 4]| {
        line.contains(&format!("orig=(src={src},dst={dst},"))
            && line.contains(&format!("reply=(src={reply_src},dst={reply_dst},"))
    };
    for line in &listed.control {
        assert!(has(line, control) && line.contains(",dport=21)"), "{mode:?}: {line}");
    }
    for line in &listed.data {
        assert!(has(line, data), "{mode:?}: {line}");
        let parent = format!(",parent=(src={},dst={},", control[0], control[1]);
        assert!(line.contains(&parent), "{mode:?}: {line}");
        assert_eq!(line.contains("sport=20,"), mode.is_active(), "{mode:?}: {line}");
    }
    edge.node.weft.sh("conntrack flush zone=1")?;
    Ok(())
}

fn a_translated_client_has_its_data_connections(lab: &Lab, workers: u32) -> Result {
    let edge = Edge::new(lab, workers)?;
    let _server = ftp_server(lab, &edge.far)?;
    for family in [V4, V6] {
        let Family { inside, public, far, .. } = family;
        for (number, mode) in Mode::of(family).iter().copied().enumerate() {
            let name = format!("{number}{}", family.flag);
            let said = session(lab, edge.inside.ns(), &family.url(far), mode, &name)?;
            let control = [inside, far, far, public];
            if mode.is_active() {
                // The client says its own address; the server hears the public one.
                assert!(said.contains(&mode.spelled(family, inside)), "{mode:?}: {said}");
                assert!(heard(lab).contains(&mode.spelled(family, public)), "{mode:?}: {}", heard(lab));
                assert!(!heard(lab).contains(&mode.spelled(family, inside)), "{mode:?}: {}", heard(lab));
                assert_listed(&edge, mode, control, [far, public, inside, far])?;
            } else {
                assert!(said.contains(&mode.spelled(family, far)), "{mode:?}: {said}");
                assert_listed(&edge, mode, control, control)?;
            }
        }
    }
    Ok(())
}

fn a_translated_server_has_its_data_connections(lab: &Lab, workers: u32) -> Result {
    let edge = Edge::new(lab, workers)?;
    let _server = ftp_server(lab, edge.inside.ns())?;
    for family in [V4, V6] {
        let Family { inside, service, far, .. } = family;
        for (number, mode) in Mode::of(family).iter().copied().enumerate() {
            let name = format!("{number}{}", family.flag);
            let said = session(lab, &edge.far, &family.url(service), mode, &name)?;
            let control = [far, service, inside, far];
            if mode.is_active() {
                assert!(heard(lab).contains(&mode.spelled(family, far)), "{mode:?}: {}", heard(lab));
                assert_listed(&edge, mode, control, [inside, far, far, service])?;
            } else {
                // The server says its own address; the client hears the one that it asked.
                assert!(said.contains(&mode.spelled(family, service)), "{mode:?}: {said}");
                assert!(heard(lab).contains(&mode.spelled(family, inside)), "{mode:?}: {}", heard(lab));
                assert_listed(&edge, mode, control, control)?;
            }
        }
    }
    Ok(())
}

/// Only what the helper has read makes data connections come in.
fn without_the_helper_no_data_connection_comes(lab: &Lab, workers: u32) -> Result {
    let edge = Edge::new(lab, workers)?;
    let _server = ftp_server(lab, &edge.far)?;
    edge.node.weft.sh("flow del br0 table=1,tcp,tp_dst=21")?;
    let url = format!("ftp://{}/file", V4.far);
    let argv = [&["curl", "-sSgv", "--max-time", "3"][..], Mode::Eprt.flags(), &[&url]].concat();
    let output = edge.inside.ns().run(&argv, SHORT)?;
    assert!(!output.success(), "{output:?}");
    // The private address stands in the command as it was; the server refuses that it is not the client's.
    assert!(heard(lab).contains(&Mode::Eprt.spelled(V4, V4.inside)), "{}", heard(lab));
    let Listed { control, data } = listed(&edge)?;
    assert!(control.is_empty() && data.len() == 1, "{control:?} {data:?}");
    Ok(())
}
