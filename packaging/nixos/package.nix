# The package, of the sources beside it: pkgs.callPackage ./package.nix { }
#
# Nix wants to know beforehand what the modules of go.sum add up to. That number changes with every new version of one, so it is not kept
# here: build once, and the error tells it ("got: sha256-…"); then
#
#     services.portmon.package = pkgs.callPackage ./package.nix { vendorHash = "sha256-…"; };
#
# The hub of a fleet is another Go module, and another package: { program = "portmon-hub"; vendorHash = "sha256-…"; }
#
# It wants the Go that go.mod names, or a later one; if buildGoModule of this nixpkgs is older, hand in another, such as buildGo125Module.
{ lib
, buildGoModule
, installShellFiles
, program ? "portmon"
, vendorHash ? lib.fakeHash
}:
let
  hub = program == "portmon-hub";
in
buildGoModule {
  pname = program;
  version = "0.0.0";
  src = lib.cleanSource ../..;
  inherit vendorHash;

  modRoot = if hub then "cmd/portmon-hub" else ".";
  subPackages = [ (if hub then "." else "cmd/portmon") ];
  env.CGO_ENABLED = 0;
  ldflags = [ "-s" "-w" ];

  # The tests need namespaces, nftables and others; `make check` runs them.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];
  postInstall = ''
    for shell in bash zsh fish; do
      $out/bin/${program} completion $shell >${program}.$shell
    done
    installShellCompletion ${program}.{bash,zsh,fish}
  '' + (if hub then ''
    installManPage ../../packaging/fleet/man/*
  '' else ''
    installManPage packaging/man/*
    install -Dm644 packaging/fail2ban/portmon.conf $out/share/portmon/fail2ban/action.d/portmon.conf
  '');

  meta = {
    description = if hub then "Have the hosts of a fleet ban together" else "Ban in the kernel whoever touches a trap port";
    homepage = "https://github.com/portmon/portmon";
    license = lib.licenses.mit;
    mainProgram = program;
    platforms = lib.platforms.linux;
  };
}
