//! The rules: what each operation needs of the mounts that it touches.

use super::{
    Denied, HandleKind, Mount, Named, Permission, Route,
    place::{OnMount, Place, Renaming},
};
use crate::{
    operation::{Access, Attributes, Operation},
    path::{RESERVED_PREFIX, VirtualPath},
};

/// The one total match: which rule grants which operation, and who serves it.
pub(super) fn decide(
    mounts: &[Mount],
    operation: Operation,
    named: Named<'_>,
) -> Result<(Operation, Route), Denied> {
    let handle = named.handle;
    let route = match &operation {
        Operation::Open {
            path,
            handle,
            access,
            attributes,
        } => {
            let place = Place::of(mounts, path)?.on_mount()?;
            let access = granted_access(&place, *access)?;
            let opened = Operation::Open {
                path: path.clone(),
                handle: *handle,
                access,
                attributes: attributes.clone(),
            };
            return Ok((opened, place.route(None)));
        }
        Operation::PosixRename { from, to } => {
            let route = rename_route(mounts, from, to)?;
            if !Place::of(mounts, to)?
                .on_mount()?
                .grants(Permission::Overwrite)
            {
                let rename = Operation::Rename {
                    from: from.clone(),
                    to: to.clone(),
                };
                return Ok((rename, route));
            }
            route
        }
        Operation::Rename { from, to } => rename_route(mounts, from, to)?,

        Operation::Stat { path } | Operation::Lstat { path } | Operation::Statvfs { path } => {
            match Place::of(mounts, path)? {
                Place::Above => Route::Gateway,
                Place::Below(place) => {
                    place.needs_either(Permission::List, Permission::Read)?;
                    place.route(None)
                }
            }
        }
        Operation::Opendir { path, .. } => match Place::of(mounts, path)? {
            Place::Above => Route::Gateway,
            Place::Below(place) => {
                place.needs(Permission::List)?;
                place.route(None)
            }
        },
        Operation::Readlink { path } => {
            let place = Place::of(mounts, path)?.on_mount()?;
            place.needs_either(Permission::List, Permission::Read)?;
            place.route(None)
        }

        Operation::Setstat { path, attributes } | Operation::Lsetstat { path, attributes } => {
            let place = Place::of(mounts, path)?.on_mount()?.not_its_directory()?;
            if attributes.size.is_some() {
                place.needs(Permission::Overwrite)?;
            }
            if changes_more_than_size(attributes) || attributes.size.is_none() {
                place.needs(Permission::Setattr)?;
            }
            place.route(None)
        }
        Operation::Remove { path } => changed(mounts, path, Permission::Delete)?,
        Operation::Mkdir { path, .. } => changed(mounts, path, Permission::Mkdir)?,
        Operation::Rmdir { path } => changed(mounts, path, Permission::Rmdir)?,
        Operation::Symlink { target, link } => {
            let place = Place::of(mounts, link)?.on_mount()?.not_its_directory()?;
            place.needs(Permission::Symlink)?;
            if !stays_below(target) {
                return Err(Denied::LinkTarget);
            }
            let led_to = place.target.beside(target).ok_or(Denied::LinkTarget)?;
            place.leading_to(&led_to)?;
            place.route(None)
        }

        Operation::Hardlink { from, to } => link_route(mounts, from, to)?,
        // As the READs of the range would be.
        Operation::Read { .. } | Operation::CheckFile { .. } => named.read()?.route.clone(),
        Operation::CheckFileName { path, .. } => {
            let place = Place::of(mounts, path)?.on_mount()?;
            place.needs(Permission::Read)?;
            place.route(None)
        }
        Operation::Write { .. } => Named::written(handle)?.route.clone(),
        Operation::CopyData { .. } => {
            let source = named.read()?;
            let target = Named::written(named.second)?;
            for path in [&source.path, &target.path] {
                let place = Place::of(mounts, path)?.on_mount()?;
                place.has_on(|extensions| extensions.copy_data)?;
            }
            if source.path == target.path {
                return Err(Denied::SameFile);
            }
            source.route.clone()
        }
        Operation::Fsync { .. } => {
            let handle = handle.ok_or(Denied::UnknownHandle)?;
            handle.file().ok_or(Denied::WrongHandle)?;
            handle.route.clone()
        }
        Operation::Readdir { .. } => {
            let handle = handle.ok_or(Denied::UnknownHandle)?;
            match handle.kind {
                HandleKind::Directory => handle.route.clone(),
                HandleKind::File(_) => return Err(Denied::WrongHandle),
            }
        }
        Operation::Fsetstat { attributes, .. } => {
            let handle = handle.ok_or(Denied::UnknownHandle)?;
            let place = Place::of(mounts, &handle.path)?
                .on_mount()?
                .not_its_directory()?;
            // Whoever may write the file through this handle may also cut it, unless it is one that may only grow.
            if attributes.size.is_some() {
                let access = handle
                    .file()
                    .filter(Access::writes)
                    .ok_or(Denied::WrongHandle)?;
                if access.append && !access.exclusive {
                    place.needs(Permission::Overwrite)?;
                }
            }
            if changes_more_than_size(attributes) || attributes.size.is_none() {
                place.needs(Permission::Setattr)?;
            }
            handle.route.clone()
        }
        Operation::Close { .. } | Operation::Fstat { .. } | Operation::Fstatvfs { .. } => {
            handle.ok_or(Denied::UnknownHandle)?.route.clone()
        }

        // Lexical, or about the gateway itself.
        Operation::Realpath { .. }
        | Operation::Limits
        | Operation::HomeDirectory
        | Operation::UsersGroupsById { .. } => Route::Gateway,
        Operation::Tend { .. } => return Err(Denied::GatewayOnly),
    };
    Ok((operation, route))
}

fn changed(mounts: &[Mount], path: &VirtualPath, permission: Permission) -> Result<Route, Denied> {
    let place = Place::of(mounts, path)?.on_mount()?.not_its_directory()?;
    place.needs(permission)?;
    Ok(place.route(None))
}

fn rename_route(mounts: &[Mount], from: &VirtualPath, to: &VirtualPath) -> Result<Route, Denied> {
    let from = Place::of(mounts, from)?.on_mount()?.not_its_directory()?;
    let to = Place::of(mounts, to)?.on_mount()?.not_its_directory()?;
    if from.id != to.id {
        return Err(Denied::AcrossMounts);
    }
    from.needs(Permission::Rename)?;
    to.needs(Permission::Rename)?;
    from.may_become(&to.target, Renaming::OfAny)?;
    Ok(from.route(Some(to.target)))
}

/// A second name for a file: the name is made as an upload's is, never over an existing one.
fn link_route(mounts: &[Mount], from: &VirtualPath, to: &VirtualPath) -> Result<Route, Denied> {
    let from = Place::of(mounts, from)?.on_mount()?.not_its_directory()?;
    let to = Place::of(mounts, to)?.on_mount()?.not_its_directory()?;
    if from.id != to.id {
        return Err(Denied::AcrossMounts);
    }
    from.has_on(|extensions| extensions.hardlink)?;
    from.needs(Permission::Read)?;
    to.needs(Permission::Write)?;
    from.may_become(&to.target, Renaming::OfFile)?;
    Ok(from.route(Some(to.target)))
}

fn granted_access(place: &OnMount<'_>, mut access: Access) -> Result<Access, Denied> {
    if access.read {
        place.needs(Permission::Read)?;
    }
    if access.writes() || access.create || access.truncate {
        if place.target.is_empty() || place.leads_to_mount {
            return Err(Denied::MountPoint);
        }
        let appends = access.append && !access.truncate && !access.exclusive;
        let may_append = appends && place.grants(Permission::Append);
        if access.create || !may_append {
            place.needs(Permission::Write)?;
        }
        if !place.grants(Permission::Overwrite) && !may_append {
            if !access.create {
                return Err(Denied::Missing(if appends {
                    Permission::Append
                } else {
                    Permission::Overwrite
                }));
            }
            access.exclusive = true;
        }
    }
    Ok(access)
}

fn changes_more_than_size(attributes: &Attributes) -> bool {
    attributes.owner.is_some() || attributes.permissions.is_some() || attributes.times.is_some()
}

/// True for a relative target without `..`: whatever links lie on the way, and wherever the link is moved, it can then
/// only lead further down. An absolute target would count from the root of the backend, which is not the account's.
fn stays_below(target: &[u8]) -> bool {
    !target.is_empty()
        && !target.starts_with(b"/")
        && !target.contains(&0)
        && target
            .split(|&byte| byte == b'/')
            .all(|component| component != b".." && !component.starts_with(RESERVED_PREFIX))
}
