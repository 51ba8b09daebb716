By0JxnÂVDÝAN.Â
á¼@°ÝBR"PÂÍl:BGÖ@¯B•ŒÀŠ'þÀ-g	B‚s2B•`®A|‚Â•£Ê?bp?â¿CBÔÅºÁÀ·×AiBÀAmÑÀMBt"ü?ÝM0Áu…?ü'GAr& BZüÐAb“ñ@