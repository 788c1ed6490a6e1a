# A NixOS module, for the one host of a fleet that is its hub:
#
#     imports = [ /path/to/portmon/packaging/nixos/portmon-hub.nix ];
#     services.portmon-hub = {
#       enable = true;
#       urls = [ "tls://hub.example.net:4222" ];
#       openFirewall = true;
#     };
#
# The first start makes the keys, and hub.toml in /var/lib/portmon-hub, which is edited there. Then, as root:
#
#     portmon-hub invite web-1
{ config, lib, pkgs, ... }:
let
  cfg = config.services.portmon-hub;
  hub = "${cfg.package}/bin/portmon-hub";
  urls = builtins.concatStringsSep " " (map (url: "--url ${url}") cfg.urls);
in
{
  options.services.portmon-hub = {
    enable = lib.mkEnableOption "the hub of a fleet of hosts that run portmon";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { program = "portmon-hub"; };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { program = \"portmon-hub\"; }";
      description = "The package that has the program.";
    };

    urls = lib.mkOption {
      type = lib.types.listOf (lib.types.strMatching "tls://[A-Za-z0-9.:-]+|tls://\\[[0-9a-fA-F:]+]:[0-9]+");
      example = [ "tls://hub.example.net:4222" ];
      description = "Where hosts reach the hub. It counts when the hub starts for the first time; later, change hub.toml.";
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to open TCP port 4222 to hosts.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.urls != [ ];
        message = "services.portmon-hub.urls: say where hosts reach the hub";
      }
    ];

    environment.systemPackages = [ cfg.package ];
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ 4222 ];

    # What the unit of packaging/fleet says.
    systemd.services.portmon-hub = {
      description = "portmon: the hub of a fleet";
      documentation = [ "man:portmon-hub(8)" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      wantedBy = [ "multi-user.target" ];
      startLimitIntervalSec = 0;
      serviceConfig = {
        Type = "notify";
        ExecStartPre = "${pkgs.runtimeShell} -c 'test -e /var/lib/portmon-hub/hub.toml || ${hub} init ${urls}'";
        ExecStart = "${hub} run";
        Restart = "on-failure";
        RestartSec = "5s";
        RestartPreventExitStatus = 2;
        TimeoutStartSec = "5min";
        LimitNOFILE = 65536;
        LimitCORE = 0;
        DynamicUser = true;
        User = "portmon-hub";
        StateDirectory = "portmon-hub";
        StateDirectoryMode = "0700";
        UMask = "0077";
        CapabilityBoundingSet = "";
        RestrictAddressFamilies = "AF_INET AF_INET6 AF_UNIX AF_NETLINK";
        NoNewPrivileges = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateMounts = true;
        PrivateDevices = true;
        PrivateUsers = true;
        DevicePolicy = "closed";
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        RemoveIPC = true;
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [ "@system-service" "~@privileged @resources" ];
        SystemCallErrorNumber = "EPERM";
      };
    };
  };
}
