# A NixOS module:
#
#     imports = [ /path/to/portmon/packaging/nixos/portmon.nix ];
#     services.portmon = {
#       enable = true;
#       watch.enable = true;
#       settings.whitelist = [ "198.51.100.0/24" ];
#     };
#     networking.nftables.enable = true;              # portmon works with it, and without it
#     networking.nftables.flushRuleset = false;       # see below
#
# The configuration is checked when the system is built: a fault ends the build, with its line.
#
# With networking.nftables.flushRuleset, which is on by default for a system.stateVersion before 23.11 and where
# networking.nftables.ruleset is set, every start and reload of nftables.service takes portmon's table out too. The units put it back
# with its bans, but for a moment nobody is banned. Set it to false where nothing else needs it: nftables.service then touches only
# tables of its own. networking.firewall, with iptables, never touches portmon's.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.portmon;
  toml = pkgs.formats.toml { };

  file = toml.generate "portmon.toml" cfg.settings;

  # Files that are on the host only cannot be read by the build.
  checkable = toml.generate "portmon-check.toml" (cfg.settings // {
    whitelist_files = builtins.filter (lib.hasPrefix builtins.storeDir) cfg.settings.whitelist_files;
  });

  checked = pkgs.runCommand "portmon.toml" { } ''
    ${lib.getExe cfg.package} config check ${checkable}
    cp ${file} $out
  '';

  configuration = if cfg.checkConfig then checked else file;

  portmon = lib.getExe cfg.package;

  # What the units of packaging/systemd say, which also says why.
  sandbox = {
    NoNewPrivileges = true;
    ProtectHome = true;
    PrivateMounts = true;
    PrivateDevices = true;
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
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    UMask = "0077";
  };
  unprivileged = sandbox // {
    DynamicUser = true;
    User = "portmon";
    StateDirectory = "portmon";
    StateDirectoryMode = "0700";
    AmbientCapabilities = "CAP_NET_ADMIN";
    CapabilityBoundingSet = "CAP_NET_ADMIN";
    ProtectSystem = "strict";
    PrivateTmp = true;
    RemoveIPC = true;
    SystemCallFilter = [ "@system-service" "~@privileged @resources" ];
  };

  documentation = [ "man:portmon(8)" "man:portmon.toml(5)" ];

  duration = lib.types.either lib.types.str lib.types.ints.positive;
  grace = lib.types.either lib.types.str (lib.types.ints.between 0 3600);
  ports = lib.types.listOf (lib.types.either lib.types.port lib.types.str);
  key = type: default: description: lib.mkOption { inherit type default description; };
in
{
  options.services.portmon = {
    enable = lib.mkEnableOption "portmon, which bans in the kernel whoever touches a trap port";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package that has the program.";
    };

    checkConfig = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = "Whether the build checks the configuration. It runs the program for that, so turn it off to build for another architecture.";
    };

    watch.enable = lib.mkEnableOption "the watcher: bans that outlast reboots and flushes of nftables, notices, metrics";

    watch.ntfyTokenFile = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "/run/secrets/ntfy-token";
      description = ''
        A file of the host with the access token for ntfy, which is handed to the watcher as a credential of systemd. Only root need be
        able to read it. It is a string, lest the token ends in the store, which everybody can read.
      '';
    };

    fleet.tokenFile = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "/run/secrets/fleet-token";
      description = ''
        A file of the host with what portmon-hub invite printed for it: the host then joins that fleet, once. Only root need be able
        to read it. It is a string, lest the token ends in the store, which everybody can read.
      '';
    };

    settings = lib.mkOption {
      default = { };
      description = "What portmon.toml says; see portmon.toml(5). What is not set is as there.";
      type = lib.types.submodule {
        freeformType = toml.type;
        options = {
          mode = key (lib.types.enum [ "enforce" "observe" ]) "enforce"
            "Whether packets are dropped, or only counted and logged and their sources remembered.";
          whitelist = key (lib.types.listOf lib.types.str)
            [ "10.0.0.0/8" "172.16.0.0/12" "192.168.0.0/16" "100.64.0.0/10" "fc00::/7" ]
            "Addresses, prefixes and ranges that are never banned. A list replaces this one.";
          whitelist_files = key (lib.types.listOf lib.types.path) [ ]
            "Files with more of them, such as ./whitelist.txt, which the build checks, or \"/var/lib/whitelist.txt\", which everybody must be able to read."
          // { apply = map (file: if builtins.isPath file then "${file}" else file); };
          whitelist_names = key (lib.types.listOf lib.types.str) [ ]
            "Names of hosts, such as that of a home connection, whose addresses the watcher has allowed.";
          whitelist_interfaces = key (lib.types.listOf lib.types.str) [ ]
            "Interfaces, such as \"wg0\" or \"br-*\", by which nothing that comes in is an offence or dropped.";

          trap.tcp = key ports
            [
              23 81 102 111 135 139 445 502 873 1080 1433 1521 1723 2323
              "2375-2376" 3128 3389 4444 5038 5555 "5900-5910" "5985-5986" 6379
              7547 8291 8545 8728 9200 11211 23023 27017 60001
            ]
            "TCP ports, and ranges such as \"5900-5910\", that ban whoever sends a packet there while nobody listens.";
          trap.udp = key ports [ ] "UDP ports that do so. Anybody can send datagrams in the name of somebody else.";
          trap.grace = key grace "1m"
            "How long a port where a program listened is not a trap, and how long no port is one after boot; 0 is off, and the most is an hour.";
          trap.maxretry = key (lib.types.ints.between 1 1000) 1 "How many packets to trap ports are an offence.";
          trap.findtime = key duration "10m" "Within which time, counted from the first; at most a week.";

          scan.ports = key (lib.types.ints.between 0 1000) 5
            "How many different closed TCP ports are an offence; 1 is strict, 0 is off.";
          scan.findtime = key duration "1d" "Within which time, counted from the first; at most a week.";
          scan.ignore = key ports [ 80 443 8080 8443 ]
            "TCP ports that never count, and ranges of them: those that your clients may ask for while nobody listens, such as the passive ports of FTP.";

          ban.bantime = key (lib.types.either duration (lib.types.listOf duration)) [ "10m" "8h" "30d" ]
            "The ladder: how long the first ban lasts, the second, and all further ones.";
          ban.forget = key duration "30d" "How long after the end of its last ban a source without an offence is forgotten.";
          ban.prefix6 = key (lib.types.ints.between 1 128) 64 "How many bits of an IPv6 address are banned.";
          ban.single6 = key (lib.types.listOf lib.types.str) [ ]
            "IPv6 prefixes whose addresses are banned one by one all the same.";
          ban.subnet4 = key (lib.types.ints.between 0 1000) 0
            "How many sources of one IPv4 /24 must offend within a week for all of it to be banned; 0 is off.";
          ban.subnet6 = key (lib.types.ints.between 0 1000) 8 "The same for the sources of one IPv6 /48.";
          ban.size = key (lib.types.ints.between 1 16777216) 65536 "How many bans fit, for IPv4 and IPv6 each.";

          allow.login = key duration "7d" "For how long the host is allowed that has just logged in by SSH; 0 is off.";

          knock.tcp = key (lib.types.listOf (lib.types.ints.between 1 65535)) [ ]
            "TCP ports that let in whoever asks for them in turn, even if banned; empty is off.";
          knock.within = key duration "10s" "Within which time each must follow the one before; at most 10 minutes.";
          knock.allow = key duration "10m" "For how long that lets in.";

          geo.databases = key (lib.types.listOf lib.types.str) [ ]
            "Databases in the MaxMind format that tell countries and networks; the units must be able to read them.";

          report.abuseipdb_key_file = key lib.types.str ""
            "A file with the key for reports to AbuseIPDB, as the watcher sees it; empty is off.";

          fleet.max_bantime = key duration "3d" "The longest ban of the fleet here, 0 to 30d.";

          watch.state = key lib.types.str "/var/lib/portmon/state.jsonl"
            "Where bans and offences are remembered; the units may write in /var/lib/portmon only.";
          watch.metrics = key lib.types.str "" "Where Prometheus finds metrics, such as 127.0.0.1:9713; empty is off.";
          watch.ntfy = key lib.types.str "" "The URL of an ntfy topic for notices; empty is off.";
          watch.ntfy_token_file = key lib.types.str ""
            "A file with the access token for it, as the watcher sees it; better set services.portmon.watch.ntfyTokenFile.";
          watch.command = key (lib.types.listOf lib.types.str) [ ]
            "A program to run for a notice, and its arguments. It runs as the watcher does, without privilege.";
        };
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.hasPrefix "/var/lib/portmon/" cfg.settings.watch.state;
        message = "services.portmon.settings.watch.state: the units may write in /var/lib/portmon only";
      }
      {
        assertion = cfg.watch.ntfyTokenFile == null || cfg.watch.enable;
        message = "services.portmon.watch.ntfyTokenFile: there is no watcher to use it; set services.portmon.watch.enable";
      }
      {
        assertion = cfg.fleet.tokenFile == null || cfg.watch.enable;
        message = "services.portmon.fleet.tokenFile: the watcher takes part in the fleet; set services.portmon.watch.enable";
      }
    ];

    services.portmon.settings.watch = lib.mkIf (cfg.watch.ntfyTokenFile != null) {
      ntfy_token_file = "/run/credentials/portmon-watch.service/ntfy.token";
    };

    environment.systemPackages = [ cfg.package ];
    environment.etc."portmon/portmon.toml".source = configuration;

    systemd.services = {
      portmon = {
        description = "portmon: trap ports in the kernel";
        inherit documentation;
        after = [ "local-fs.target" "nftables.service" ];
        before = [ "network-pre.target" "shutdown.target" ];
        wants = [ "network-pre.target" "portmon-save.service" ];
        conflicts = [ "shutdown.target" ];
        partOf = [ "nftables.service" ];
        wantedBy = [ "sysinit.target" "nftables.service" ];
        startLimitIntervalSec = 0;
        unitConfig = {
          DefaultDependencies = false;
          ReloadPropagatedFrom = "nftables.service";
        };
        reloadTriggers = [ configuration ];
        serviceConfig = unprivileged // {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${portmon} apply --boot";
          ExecReload = "${pkgs.runtimeShell} -c '${portmon} apply || { ${portmon} list --count >/dev/null 2>&1 || ${portmon} apply --boot; exit 1; }'";
          SuccessExitStatus = 2;
          ExecStop = "${portmon} save";
          TimeoutStartSec = "90s";
          TimeoutStopSec = "30s";
          RestrictAddressFamilies = "AF_NETLINK AF_UNIX";
        };
      };

      portmon-save = {
        description = "portmon: save the bans before a reload of nftables";
        documentation = [ "man:portmon(8)" ];
        before = [ "nftables.service" "shutdown.target" ];
        conflicts = [ "shutdown.target" ];
        startLimitIntervalSec = 0;
        unitConfig = {
          DefaultDependencies = false;
          ReloadPropagatedFrom = "nftables.service";
        };
        serviceConfig = sandbox // {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${pkgs.coreutils}/bin/true";
          ExecReload = "${portmon} save";
          TimeoutStartSec = "30s";
          CapabilityBoundingSet = "CAP_NET_ADMIN CAP_CHOWN CAP_DAC_OVERRIDE";
          RestrictAddressFamilies = "AF_NETLINK AF_UNIX";
          ProtectSystem = "full";
          SystemCallFilter = [ "@system-service" "~@privileged @resources" "@chown" ];
        };
      };

      portmon-watch = lib.mkIf cfg.watch.enable {
        description = "portmon: the watcher of trap ports";
        inherit documentation;
        wants = [ "portmon.service" ];
        after = [ "portmon.service" ];
        partOf = [ "portmon.service" ];
        wantedBy = [ "multi-user.target" "portmon.service" "nftables.service" ];
        startLimitIntervalSec = 0;
        reloadTriggers = [ configuration ];
        serviceConfig = unprivileged // {
          Type = "notify";
          ExecStart = "${portmon} watch";
          ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
          WatchdogSec = "60s";
          Restart = "on-failure";
          RestartSec = "5s";
          RestartPreventExitStatus = 2;
          TimeoutStartSec = "90s";
          TimeoutStopSec = "30s";
          KillMode = "mixed";
          OOMPolicy = "continue";
          LimitCORE = 0;
          RestrictAddressFamilies = "AF_NETLINK AF_UNIX AF_INET AF_INET6";
        } // lib.optionalAttrs (cfg.watch.ntfyTokenFile != null) {
          LoadCredential = [ "ntfy.token:${cfg.watch.ntfyTokenFile}" ];
        };
      };

      portmon-fleet = lib.mkIf (cfg.fleet.tokenFile != null) {
        description = "portmon: join the fleet";
        inherit documentation;
        wants = [ "network-online.target" ];
        after = [ "network-online.target" "portmon.service" "portmon-watch.service" ];
        wantedBy = [ "multi-user.target" ];
        startLimitIntervalSec = 0;
        unitConfig.ConditionPathExists = "!/var/lib/portmon/fleet.json";
        serviceConfig = unprivileged // {
          Type = "oneshot";
          ExecStart = "${pkgs.runtimeShell} -c '${portmon} fleet join - <\"$CREDENTIALS_DIRECTORY/fleet.token\"'";
          Restart = "on-failure"; # the hub may be away
          RestartSec = "30s";
          RestartPreventExitStatus = 2;
          LoadCredential = [ "fleet.token:${cfg.fleet.tokenFile}" ];
          RestrictAddressFamilies = "AF_NETLINK AF_UNIX AF_INET AF_INET6";
        };
      };
    };
  };
}
